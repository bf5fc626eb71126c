"""An encoder in the engine: texts as wholes, their bits, and what it refuses."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from engine_crowd import check_same, crowd
from engine_trace import DTYPES, Trace, alone
from headstream.model.outputs import LogitsSpec, Outputs, PoolSpec, RowsSpec, ScoreSpec
from tiny_models import D_VOCAB, ENCODERS, LONGEST, save_tiny


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(request.param, tmp_path_factory.mktemp(request.param))


def text(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(3, D_VOCAB) for _ in range(length)]


def everything(length: int) -> Outputs:
    pool = PoolSpec(-1, "mean", (tuple(range(length)), (0,), tuple(range(length // 2, length))))
    return Outputs(rows=RowsSpec(prompt_layers=(0, 2, -1)), pool=pool)


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_alone_and_in_any_crowd(encoder: Path, cache_dir: Path, dtype: str) -> None:
    """Random lengths, arrivals and aborts, in steps shorter than the longest text."""
    rng = random.Random(3)
    lengths = [rng.choice([1, 2, 7, 16, 33, 127, 128, 129, 300, LONGEST]) for _ in range(30)]
    requests: list[dict[str, Any]] = [
        {"token_ids": text(rng, n), "outputs": everything(n)} for n in lengths
    ]
    lone = alone(Trace(encoder, cache_dir, dtype=dtype), requests)
    trace = Trace(encoder, cache_dir, dtype=dtype, max_num_batched_tokens=400, max_num_seqs=9)
    check_same(crowd(trace, requests, rng, most_steps=1, aborts=0.1), lone, at_least=21)
    steps = [(report.stats.num_tokens, report.stats.num_seqs) for report in trace.reports]
    assert any(count > 3 for _, count in steps)
    assert all(tokens <= 400 or count == 1 for tokens, count in steps)


def test_vectors_equal_transformers(encoder: Path, cache_dir: Path) -> None:
    auto_model: Any = transformers.AutoModel
    oracle = auto_model.from_pretrained(encoder).eval()
    rng = random.Random(5)
    trace = Trace(encoder, cache_dir)
    texts = [text(rng, length) for length in (5, 90, LONGEST)]
    ids = [trace.submit(ids, outputs=everything(len(ids))) for ids in texts]
    trace.run()
    for sequence_id, token_ids in zip(ids, texts, strict=True):
        with torch.no_grad():
            rows = oracle(torch.tensor([token_ids])).last_hidden_state[0]
        data = trace.news[sequence_id].vectors
        assert data is not None
        vectors = np.frombuffer(data, "<f4").reshape(3, 64)
        half = len(token_ids) // 2
        expected = torch.stack([rows.mean(0), rows[0], rows[half:].mean(0)])
        np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-5)


def test_what_it_says_of_itself(encoder: Path, cache_dir: Path) -> None:
    """No cache, no logits, whole texts: and memory for the texts of one step only."""
    trace = Trace(encoder, cache_dir, max_num_batched_tokens=400, max_num_seqs=9)
    ready = trace.ready
    assert (ready.causal, ready.unembeds, ready.max_model_len) == (False, False, LONGEST)
    assert ready.batch_invariant
    assert ready.blocks_total == -(-LONGEST // 32) + 9
    assert not trace.scheduler.cache.enabled
    one_layer = 2 * ready.blocks_total * 32 * 64 * 4
    assert trace.runner.cache.num_bytes == one_layer
    shorter = Trace(encoder, cache_dir, max_model_len=100)
    assert shorter.ready.max_model_len == 100


@pytest.mark.parametrize(
    "spec",
    [
        {"max_new_tokens": 1},
        {"branch": True},
        {"outputs": Outputs(score=ScoreSpec(1, LogitsSpec()))},
    ],
    ids=["generate", "decode", "score"],
)
def test_logits_are_refused(encoder: Path, cache_dir: Path, spec: dict[str, Any]) -> None:
    """The front refuses them before; here the engine goes on all the same."""
    trace = Trace(encoder, cache_dir)
    refused = trace.submit([5, 6, 7], **spec)
    served = trace.submit([5, 6, 7], outputs=everything(3))
    trace.run()
    assert trace.news[refused].finish == "error"
    assert "no logits" in trace.news[refused].error
    assert trace.news[served].finish == "length"
