"""Score through a real server and the real client, beside `transformers`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from headstream.client import AsyncClient, Client, InvalidArgument, TextScores, TopLogits
from server_process import Server, running_server
from strided_perplexity import strided_logprobs
from tiny_models import save_tiny

V = 420
CONTEXT = 300


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Any:
    """The same weights in transformers, float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Generator[Server]:
    """A server whose context is short."""
    flags = ("--dtype", "float32", "--max-model-len", str(CONTEXT), "--max-queued-tokens", "9999")
    with running_server(tiny_model, *flags) as server:
        yield server


@pytest.fixture
def client(running: Server) -> Generator[Client]:
    with Client(running.address) as connected:
        yield connected


def text(seed: int, length: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(V) for _ in range(length)]


def bits(scores: TextScores) -> list[bytes]:
    return [array.tobytes() for array in (scores.logprobs, scores.ranks, scores.entropies)]


def rows_of(reference: Any, token_ids: Any) -> torch.Tensor:
    """The logits that score each token but the first: float64 [n - 1, V]."""
    with torch.no_grad():
        logits: torch.Tensor = reference(torch.tensor([list(token_ids)])).logits[0, :-1]
    return logits.double()


def test_a_text_equals_transformers(client: Client, reference: Any) -> None:
    words = "So long and thanks for all the fish, the chicken didn't cross the road."
    scores = client.score(words)
    assert scores.token_ids.tolist() == client.tokenize(words).token_ids
    logprobs = rows_of(reference, scores.token_ids).log_softmax(1)
    targets = torch.tensor(scores.token_ids[1:])[:, None]
    expected = logprobs.gather(1, targets)[:, 0].numpy()
    np.testing.assert_allclose(scores.logprobs, expected, atol=1e-4)
    np.testing.assert_allclose(scores.entropies, -(logprobs.exp() * logprobs).sum(1), atol=1e-4)
    # The first token is the padding token, whose embedding is zero: all of its logits are equal.
    order = logprobs.sort(dim=1, descending=True, stable=True).indices
    assert np.array_equal(scores.ranks, (order == targets).nonzero()[:, 1])
    assert scores.ranks[0] == scores.token_ids[1]
    assert scores.total_logprob == pytest.approx(float(expected.sum()), abs=1e-3)
    assert scores.perplexity == pytest.approx(float(np.exp(-expected.mean())), rel=1e-5)
    assert scores.usage.input_tokens == len(scores)
    assert scores.fingerprint.model == "tiny"
    assert scores.timings.first_output_ns > 0


def test_many_texts_have_the_bits_of_each_alone(client: Client) -> None:
    """A list of ids, in one packed batch; also from the async client, and asked again."""
    texts = [text(seed, length) for seed, length in enumerate([2, 300, 17, 256, 257, 90] * 4)]
    crowd = client.score(texts)
    assert [scores.token_ids.tolist() for scores in crowd] == texts
    for scores, ids in zip(crowd, texts, strict=True):
        alone = client.score(ids)
        assert bits(alone) == bits(scores)
        assert (alone.total_logprob, alone.perplexity) == (scores.total_logprob, scores.perplexity)


async def test_async_beside_generation(running: Server) -> None:
    ids = text(1, 280)
    async with AsyncClient(running.address) as client:
        alone = await client.score(ids)

        async def generate(seed: int) -> int:
            steps = client.generate(text(seed, 200), max_new_tokens=60, ignore_eos=True)
            return len([step async for step in steps])

        scoring = asyncio.create_task(client.score([ids] * 8))
        counts = await asyncio.gather(*(generate(seed) for seed in range(8)))
        scored = await scoring
    assert counts == [60] * 8
    assert all(bits(scores) == bits(alone) for scores in scored)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("logprobs", [False, True])
def test_rows_of_every_kind(client: Client, reference: Any, dtype: Any, logprobs: bool) -> None:
    ids = text(2, 270)
    expected = rows_of(reference, ids)
    if logprobs:
        expected = expected.log_softmax(1)
    close = {"float32": 1e-5, "bfloat16": 2**-8, "float16": 2**-10}[dtype]
    options: Any = {"logprobs": logprobs, "logits_dtype": dtype}

    full = client.score(ids, logits="full", **options).logits
    assert isinstance(full, np.ndarray)
    np.testing.assert_allclose(full, expected, atol=1e-4, rtol=close)
    chosen = client.score(ids, logits=[9, 3, 400], **options).logits
    assert isinstance(chosen, np.ndarray)
    assert np.array_equal(chosen, full[:, [9, 3, 400]])
    top = client.score(ids, logits="top", top_logits=7, **options).logits
    assert isinstance(top, TopLogits)
    assert top.token_ids.shape == top.values.shape == (269, 7)
    assert np.array_equal(top.values, np.take_along_axis(full, top.token_ids, 1))
    assert np.array_equal(top.values, -np.sort(-full.astype(np.float32), axis=1)[:, :7])


@pytest.mark.parametrize("stride", [1, 77, 150, CONTEXT - 1])
@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 1, 611])
def test_windows_are_those_of_the_recipe(
    client: Client, reference: Any, stride: int, length: int
) -> None:
    if stride == 1 and length == 611:
        length = CONTEXT + 20  # the same, in fewer windows
    ids = text(3, length)
    scores = client.score(ids, window_stride=stride)
    expected = strided_logprobs(reference, ids, CONTEXT, stride)
    np.testing.assert_allclose(scores.logprobs, expected, atol=1e-4)
    assert scores.perplexity == pytest.approx(float(np.exp(-expected.mean())), rel=1e-5)
    assert (scores.usage.input_tokens == length) is (length == CONTEXT)


def test_another_stride_gives_other_numbers(client: Client) -> None:
    """Negative control: the windows matter, behind the first and nowhere else."""
    ids = text(3, 611)
    one, other = (client.score(ids, window_stride=stride) for stride in (77, 150))
    first = CONTEXT - 1
    assert np.array_equal(one.logprobs[:first], other.logprobs[:first])
    assert np.array_equal(one.logprobs[:first], client.score(ids[:CONTEXT]).logprobs)
    assert not np.array_equal(one.logprobs[first:], other.logprobs[first:])


def test_a_text_too_long_is_refused_by_name(client: Client) -> None:
    with pytest.raises(InvalidArgument, match=r"inputs\[1\]: has 301 tokens; the model takes 300"):
        client.score([text(0, 5), text(0, CONTEXT + 1)])


def test_rows_over_a_mebibyte_come_in_chunks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A vocabulary whose row takes a little more than a message holds."""
    import tiny_tokenizers

    d_vocab = (1 << 18) + 3
    directory = tmp_path_factory.mktemp("wide")
    save_tiny("gemma3", directory, vocab_size=d_vocab, hidden_size=16, head_dim=4)
    tiny_tokenizers.byte_level_tokenizer().save(str(directory / "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    texts = [[5, 6, d_vocab - 1, 7], [9, 8, 7]]
    with (
        running_server(directory, "--dtype", "float32") as server,
        Client(server.address) as client,
    ):
        results = client.score(texts, logits="full")
    for ids, scores in zip(texts, results, strict=True):
        assert isinstance(scores.logits, np.ndarray)
        np.testing.assert_allclose(scores.logits, rows_of(model.eval(), ids), atol=1e-4)
