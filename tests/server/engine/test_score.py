"""Teacher forcing in the engine: right, the same bits in any company, every position once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from contract_requests import text
from engine_crowd import check_same, crowd
from engine_trace import DTYPES, PLENTY, News, Trace, alone, everything, same
from headstream.model import heads
from headstream.model.outputs import LogitsSpec, Outputs, SamplingParams, ScoreSpec
from headstream.server.engine.messages import Flow
from headstream.server.engine.sequence import Sequence

TOP = LogitsSpec("top", top_k=7, logprobs=True)
FULL = LogitsSpec("full")


def scoring(token_ids: list[int], logits: LogitsSpec | None = None, first: int = 1) -> Any:
    spec = ScoreSpec(first, logits or LogitsSpec())
    return {"token_ids": token_ids, "outputs": Outputs(score=spec)}


def columns(news: News) -> np.ndarray:
    """Log-probabilities, ranks, entropies: [3, n]."""
    return np.stack([np.frombuffer(news.scores[at], np.float32) for at in sorted(news.scores)]).T


@pytest.fixture(scope="module")
def reference(tiny_gemma: Path) -> Any:
    """The same checkpoint in transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_gemma, dtype=torch.float32)
    return model.eval()


@pytest.mark.usefixtures("each_backend")
def test_scores_equal_transformers(tiny_gemma: Path, cache_dir: Path, reference: Any) -> None:
    ids = text(0, 700)
    trace = Trace(tiny_gemma, cache_dir, max_num_batched_tokens=400)
    [news] = alone(trace, [scoring(ids, FULL)])
    assert sorted(news.scores) == sorted(news.score_logits) == list(range(1, 700))
    with torch.no_grad():
        logits = reference(torch.tensor([ids])).logits[0, :-1].double()
    targets = torch.tensor(ids[1:])[:, None]
    logprobs, ranks, entropies = columns(news)
    expected = logits.log_softmax(1)
    np.testing.assert_allclose(logprobs, expected.gather(1, targets)[:, 0], atol=1e-4)
    np.testing.assert_allclose(entropies, -(expected.exp() * expected).sum(1), atol=1e-4)
    rows = np.stack([np.frombuffer(news.score_logits[at], np.float32) for at in range(1, 700)])
    np.testing.assert_allclose(rows, logits, atol=1e-4)
    chosen = rows[np.arange(699), ids[1:]][:, None]
    assert np.array_equal(ranks, (rows > chosen).sum(1)), "ranks are those of the rows sent"
    assert (ranks == (logits > logits.gather(1, targets)).sum(1).numpy()).mean() > 0.99


def _request(rng: random.Random, bases: list[list[int]]) -> dict[str, Any]:
    """A text that begins like others, scored with or without rows, or something else."""
    shared = rng.choice([0, 100, 256, 257, 512, 600])
    ids = rng.choice(bases)[:shared] + text(rng.randrange(4), rng.choice([2, 40, 256, 300]))
    kind = rng.random()
    if kind < 0.2:
        return {"token_ids": ids, "max_new_tokens": 30, "outputs": everything("generate", 0)}
    if kind < 0.3:
        return {"token_ids": ids, "outputs": everything("embed", len(ids))}
    first = rng.choice([1, 1, len(ids) // 2, len(ids) - 1])
    return scoring(ids, rng.choice([None, None, TOP, FULL]), first)


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", [200, 40])
def test_the_same_bits_in_any_crowd_chunk_and_cache(
    tiny_gemma: Path, cache_dir: Path, dtype: str, blocks: int
) -> None:
    """Random arrivals and aborts; with few blocks, evictions and preemptions too."""
    rng = random.Random(blocks)
    bases = [text(10 + i, 700) for i in range(2)]
    requests = [_request(rng, bases) for _ in range(24)]
    cold = Trace(
        tiny_gemma, cache_dir, dtype=dtype, max_num_batched_tokens=2048, prefix_caching=False
    )
    lone = alone(cold, requests)
    trace = Trace(
        tiny_gemma,
        cache_dir,
        dtype=dtype,
        max_num_batched_tokens=600,
        max_num_seqs=9,
        kv_cache_bytes=blocks * cold.block_bytes,
    )
    check_same(crowd(trace, requests, rng), lone, at_least=16)
    assert trace.scheduler.hit_tokens > 0
    if blocks == 40:
        assert trace.scheduler.preemptions > 0


@pytest.mark.usefixtures("each_backend")
def test_a_warm_cache_skips_no_scored_position(tiny_gemma: Path, cache_dir: Path) -> None:
    """Scored rows all run again; where the end alone is scored, what lies before it is shared."""
    ids = text(0, 700)
    trace = Trace(tiny_gemma, cache_dir)
    [whole] = alone(trace, [scoring(ids)])
    hits = trace.scheduler.hit_tokens
    before = trace.rows_computed
    [again] = alone(trace, [scoring(ids)])
    assert trace.rows_computed - before == 700
    assert trace.scheduler.hit_tokens == hits == 0
    assert same(again, whole)
    before = trace.rows_computed
    [end] = alone(trace, [scoring(ids, first=600)])
    assert trace.rows_computed - before == 700 - 512
    assert end.scores == {at: whole.scores[at] for at in range(600, 700)}


@pytest.mark.usefixtures("each_backend")
def test_preempted_in_the_middle(tiny_gemma: Path, cache_dir: Path) -> None:
    """An older sequence grows until the younger, half scored, must give way."""
    older: dict[str, Any] = {"token_ids": text(1, 300), "max_new_tokens": 300}
    younger = scoring(text(2, 768), TOP)
    reference = Trace(tiny_gemma, cache_dir, prefix_caching=False)
    lone = alone(reference, [older, younger])
    trace = Trace(
        tiny_gemma,
        cache_dir,
        max_num_batched_tokens=400,
        kv_cache_bytes=25 * reference.block_bytes,
    )
    ids = [trace.submit(**older), trace.submit(**younger)]
    while not trace.news[ids[1]].scores:
        trace.core.step()
    scored = len(trace.news[ids[1]].scores)
    trace.core.handle(Flow(ids[1], 0))
    while trace.core.has_work and not trace.scheduler.preemptions:
        trace.core.step()
    assert 0 < scored < 767
    assert trace.scheduler.preemptions == 1
    trace.core.handle(Flow(ids[1], PLENTY))
    trace.run()
    for sequence_id, expected in zip(ids, lone, strict=True):
        assert same(trace.news[sequence_id], expected)


def test_without_its_memory_of_what_it_sent_a_preempted_text_is_sent_twice(
    tiny_gemma: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the test above."""
    monkeypatch.setattr(
        Sequence,
        "scored_rows",
        lambda self, rows: (
            range(self.num_computed, min(self.num_computed + rows, self.num_prompt - 1))
            if self.spec.outputs.score
            else range(0)
        ),
    )
    with pytest.raises(AssertionError, match="sent twice"):
        test_preempted_in_the_middle(tiny_gemma, cache_dir)


def test_scores_are_those_of_generated_tokens(tiny_gemma: Path, cache_dir: Path) -> None:
    """A continuation, scored: the log-probabilities told while it was generated."""
    prompt = text(3, 40)
    outputs = Outputs(logits=FULL, logprob=True)
    trace = Trace(tiny_gemma, cache_dir)
    sampling = SamplingParams(temperature=1.5, seed=3)
    [made] = alone(
        trace,
        [{"token_ids": prompt, "max_new_tokens": 20, "outputs": outputs, "sampling": sampling}],
    )
    [scored] = alone(trace, [scoring(prompt + made.token_ids, FULL, first=40)])
    rows = [scored.score_logits[at] for at in range(40, 60)]
    assert rows == [row.tobytes() for row in made.logits]


def test_whole_rows_come_few_at_a_time_and_hold_up_nobody(
    tiny_gemma: Path, cache_dir: Path
) -> None:
    """A step sends 256 whole rows at most; behind those who wait for theirs, others go ahead."""
    trace = Trace(tiny_gemma, cache_dir, max_num_batched_tokens=2048)
    wide = [trace.submit(**scoring(text(i, 600), FULL)) for i in range(3)]
    narrow = trace.submit(**scoring(text(4, 600)))
    most = 0
    for _ in range(1000):
        if not trace.core.has_work:
            break
        before = sum(len(trace.news[i].score_logits) for i in wide)
        trace.core.step()
        most = max(most, sum(len(trace.news[i].score_logits) for i in wide) - before)
        if trace.news[narrow].finish is None:
            assert trace.news[wide[-1]].finish is None
    assert most == 256
    assert all(len(trace.news[i].score_logits) == 599 for i in wide)
    assert len(trace.news[narrow].scores) == 599


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_slices_change_no_bit(
    tiny_gemma: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    requests = [scoring(text(i, length), TOP) for i, length in enumerate((300, 65, 2))]
    lone = alone(Trace(tiny_gemma, cache_dir), requests)
    monkeypatch.setattr(heads, "SLICE", rows)
    trace = Trace(tiny_gemma, cache_dir)
    ids = [trace.submit(**request) for request in requests]
    trace.run()
    for sequence_id, expected in zip(ids, lone, strict=True):
        assert same(trace.news[sequence_id], expected)
