"""The main job on the embedded real model: real weights, a real server, the real client."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from headstream.client import AsyncClient, Client
from server_process import Server, running_server
from strided_perplexity import strided_logprobs

PROMPTS = [
    "So long and thanks for all the",
    "The chicken didn't cross the road because it was too",
    "In the beginning",
    "Water boils at a temperature of",
    "def fibonacci(n):\n    ",
    "Der schnelle braune Fuchs springt über den",
    "東京は日本の",
    "Once upon a time, in a village by the sea, there lived an old fisherman who",
]
NEW_TOKENS = 64
ENGLISH = """It was a bright cold day in the north, and the ferry had not come for a week. The
people of the island kept to their houses, mended their nets, and told each other the stories that
they had told the winter before. Nobody spoke of the lighthouse. Its lamp had gone out on the second
night of the storm, and the keeper, who was known to be a careful man, had lit no fire since. On the
fifth day the doctor said what all of them were thinking: somebody would have to row over, and see.
They drew straws in the back room of the inn. The shortest went to the schoolmaster, who had never
been good with boats, and who put on his hat without a word. He was halfway over the sound when the
wind fell and the fog came down, so thick that he could not see the blades of his own oars; and it
was then that he heard the bell."""
WORDS = Path(__file__).read_text().split()


@pytest.fixture(scope="module")
def reference(gemma: Path) -> Any:
    """The same weights in transformers, float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32).eval()


def test_greedy_tokens_and_full_logits_equal_transformers(
    gemma_server: Server, reference: Any
) -> None:
    """64 greedy tokens for 8 prompts, and every full row on the way."""
    for prompt in PROMPTS:
        with Client(gemma_server.address) as client:
            run = client.generate(prompt, max_new_tokens=NEW_TOKENS, logits="full", ignore_eos=True)
            steps = list(run)
        ids = [step.token_id for step in steps]
        tokens = torch.tensor([[*run.prompt_ids, *ids]])
        with torch.no_grad():
            logits = reference(tokens).logits[0, len(run.prompt_ids) - 1 : -1].numpy()
        assert ids == logits.argmax(-1).tolist(), prompt
        rows = np.stack([np.asarray(step.logits) for step in steps])
        assert rows.shape == (NEW_TOKENS, 262144)
        # Logits reach 44 here, where one part in 10^5 is more than 10^-4.
        np.testing.assert_allclose(rows, logits, atol=1e-4, rtol=1e-5, err_msg=prompt)
        logprobs = torch.tensor(logits).log_softmax(-1).gather(1, torch.tensor(ids)[:, None])
        ours = np.array([step.logprob for step in steps], np.float32)
        np.testing.assert_allclose(ours, logprobs[:, 0].numpy(), atol=1e-4)


def test_contextual_embeddings_equal_transformers(gemma_server: Server, reference: Any) -> None:
    """Every layer's rows of a text, over the wire."""
    n_layers = reference.config.num_hidden_layers
    with Client(gemma_server.address) as client:
        table = client.embed_tokens(PROMPTS[1], layers=[*range(n_layers), -1])
    with torch.no_grad():
        hidden = reference(torch.tensor([table.token_ids]), output_hidden_states=True).hidden_states
    for ours, theirs in zip(table.vectors, hidden, strict=True):
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-5 * scale, rtol=1e-4)


def test_a_causal_model_embeds_by_its_last_token(gemma_server: Server, reference: Any) -> None:
    """Under an instruction, as causal embedders are used; and by the mean of all tokens."""
    instruction = "Instruct: find what the text is about\nQuery: "
    with Client(gemma_server.address) as client:
        last = client.embed(PROMPTS[:4], pooling="last", prompt=instruction)
        mean = client.embed(PROMPTS[0], pooling="mean")
        tables = [client.tokenize(instruction + prompt) for prompt in PROMPTS[:4]]
        plain = client.tokenize(PROMPTS[0])

    def rows(table: Any) -> Any:
        with torch.no_grad():
            out = reference.model(torch.tensor([table.token_ids]))
        return out.last_hidden_state[0].numpy()

    def unit(vector: Any) -> Any:
        return vector / np.linalg.norm(vector)

    for vector, table in zip(last, tables, strict=True):
        np.testing.assert_allclose(vector, unit(rows(table)[-1]), atol=1e-5)
    np.testing.assert_allclose(mean, unit(rows(plain)[1:].mean(0)), atol=1e-5)


def test_it_means_the_same_to_a_causal_model(gemma_server: Server) -> None:
    """What makes "it" the chicken or the road comes later, and a causal model cannot look ahead."""
    with Client(gemma_server.address) as client:
        layers = list(range(19))
        texts = [
            f"The chicken didn't cross the road because it was too {w}" for w in ("tired", "wide")
        ]
        one, other = (client.embed_tokens(text, layers=layers) for text in texts)
        index = one.tokens.index(" it")
        assert other.tokens.index(" it") == index
        assert np.array_equal(one.vectors[:, index], other.vectors[:, index])
        assert not np.array_equal(one.vectors[1:, -1], other.vectors[1:, -1])


def test_perplexity_of_english_equals_transformers(gemma_server: Server, reference: Any) -> None:
    """To four decimals, with every token's log-probability, rank and entropy."""
    with Client(gemma_server.address) as client:
        scores = client.score(ENGLISH)
    ids = torch.from_numpy(scores.token_ids)[None]
    with torch.no_grad():
        logits = reference(ids).logits[0, :-1].double()
    logprobs = logits.log_softmax(1)
    targets = ids[0, 1:, None]
    expected = logprobs.gather(1, targets)[:, 0]
    assert len(scores) > 150
    assert scores.perplexity == pytest.approx(float((-expected.mean()).exp()), abs=1e-4)
    assert 5 < scores.perplexity < 100, "it reads English"
    np.testing.assert_allclose(scores.logprobs, expected, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(scores.entropies, -(logprobs.exp() * logprobs).sum(1), atol=1e-4)
    ranks = (logits > logits.gather(1, targets)).sum(1).numpy()
    apart = scores.ranks != ranks  # far down, where neighbours are less than rounding apart
    assert apart.mean() < 0.05
    assert not apart[ranks < 100].any()


def test_windows_of_english_equal_the_recipe(gemma: Path, reference: Any) -> None:
    flags = ("--dtype", "float32", "--threads", "2", "--max-model-len", "64")
    with running_server(gemma, *flags) as server, Client(server.address) as client:
        scores = client.score(ENGLISH[:512], window_stride=24)
    expected = strided_logprobs(reference, scores.token_ids.tolist(), 64, 24)
    assert len(scores) > 64
    assert scores.perplexity == pytest.approx(float(np.exp(-expected.mean())), abs=1e-4)
    np.testing.assert_allclose(scores.logprobs, expected, atol=1e-4, rtol=1e-5)


async def test_32_streams_with_random_cancels(gemma_server: Server) -> None:
    """Survivors have the tokens and the bits of a lone run; nothing is held afterwards."""
    rng = random.Random(11)
    jobs = [
        (" ".join(rng.choices(WORDS, k=rng.choice([1, 5, 40, 150]))), rng.randrange(4, 24))
        for _ in range(32)
    ]
    cancelled = set(rng.sample(range(32), 12))

    async with AsyncClient(gemma_server.address) as client:

        async def run(index: int) -> list[tuple[int, bytes]]:
            prompt, new = jobs[index]
            result = []
            async with client.generate(
                prompt, max_new_tokens=new, logits="full", ignore_eos=True
            ) as steps:
                async for step in steps:
                    assert isinstance(step.logits, np.ndarray)
                    result.append((step.token_id, step.logits.tobytes()))
                    if index in cancelled and len(result) >= new // 2:
                        break
            return result

        crowd = await asyncio.gather(*(run(index) for index in range(32)))
        for index in set(range(32)) - cancelled:
            assert len(crowd[index]) == jobs[index][1]
            assert await run(index) == crowd[index], f"stream {index} differs from its lone run"
    deadline = time.monotonic() + 60
    held = -1.0
    while held != 0 and time.monotonic() < deadline:
        metrics = gemma_server.metrics()
        names = ("kv_blocks_used", "sequences_running", "queue_depth")
        held = sum(value for key, value in metrics.items() if key[0] in names)
        await asyncio.sleep(0.1)
    assert held == 0
