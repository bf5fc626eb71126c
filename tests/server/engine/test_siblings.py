"""Continuations of one prompt: computed once, then each with the bits it would have alone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dry_run import BLOCK, step, text
from engine_trace import DTYPES, PLENTY, News, Trace, alone, everything, same
from headstream.model.outputs import LogitsSpec, Outputs, SamplingParams
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.messages import Abort, Flow, Sibling, Submit
from headstream.server.engine.scheduler import Scheduler
from headstream.server.engine.sequence import Sequence
from tiny_models import D_VOCAB

PROMPT = [(37 * i + 11) % D_VOCAB for i in range(300)]
FULL = Outputs(logits=LogitsSpec("full"), logprob=True)
DRAWN = SamplingParams(temperature=2.0, seed=1)


@pytest.fixture
def trace(tiny_gemma: Path, cache_dir: Path) -> Trace:
    return Trace(tiny_gemma, cache_dir)


def narrow(directory: Path, cache_dir: Path, blocks: int, **settings: Any) -> Trace:
    """An engine with so few blocks."""
    block_bytes = Trace(directory, cache_dir, **settings).block_bytes
    return Trace(directory, cache_dir, kv_cache_bytes=blocks * block_bytes, **settings)


def each_alone(trace: Trace, seeds: list[int], sampling: SamplingParams, **spec: Any) -> list[News]:
    """What each continuation is as a request of its own, all after one another."""
    draws = [sampling, *(replace(sampling, seed=seed) for seed in seeds)]
    return alone(trace, [{"sampling": params, **spec} for params in draws])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 31, 32, 33, 256, 257, 300])
def test_each_has_the_bits_of_a_request_of_its_own(
    tiny_gemma: Path, cache_dir: Path, length: int, dtype: str
) -> None:
    """Tokens, rows of logits and vectors; prompts that end within and on the edge of a block."""
    spec: dict[str, Any] = {
        "token_ids": PROMPT[:length],
        "max_new_tokens": 40,
        "outputs": everything("generate", 0),
    }
    seeds = [5, 2**64 - 1, 7]
    other = Trace(tiny_gemma, cache_dir, dtype=dtype, prefix_caching=False)
    expected = each_alone(other, seeds, DRAWN, **spec)
    trace = Trace(tiny_gemma, cache_dir, dtype=dtype)
    ids = trace.submit_all(seeds=seeds, sampling=DRAWN, **spec)
    trace.run()
    assert all(same(trace.news[i], news) for i, news in zip(ids, expected, strict=True))
    assert len({tuple(news.token_ids) for news in expected}) == 4
    assert trace.scheduler.num_blocks_used == 0


@pytest.mark.usefixtures("torch_kernels")
def test_with_torch_operators_the_bits_are_the_same_too(tiny_gemma: Path, cache_dir: Path) -> None:
    spec: dict[str, Any] = {"token_ids": PROMPT[:40], "max_new_tokens": 30, "outputs": FULL}
    expected = each_alone(Trace(tiny_gemma, cache_dir), [5, 6], DRAWN, **spec)
    trace = Trace(tiny_gemma, cache_dir)
    ids = trace.submit_all(seeds=[5, 6], sampling=DRAWN, **spec)
    trace.run()
    assert all(same(trace.news[i], news) for i, news in zip(ids, expected, strict=True))


def test_without_copy_on_write_the_bits_differ(
    tiny_gemma: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    spec: dict[str, Any] = {"token_ids": PROMPT[:40], "max_new_tokens": 30, "outputs": FULL}
    expected = each_alone(Trace(tiny_gemma, cache_dir), [5], DRAWN, **spec)
    monkeypatch.setattr(BlockPool, "is_shared", lambda *_: False)
    trace = Trace(tiny_gemma, cache_dir)
    ids = trace.submit_all(seeds=[5], sampling=DRAWN, **spec)
    trace.run()
    assert not all(same(trace.news[i], news) for i, news in zip(ids, expected, strict=True))


def test_the_prompt_is_computed_once_and_its_blocks_are_held_once(trace: Trace) -> None:
    """Three greedy continuations of 300 tokens: 10 blocks, of which each needs one of its own."""
    ids = trace.submit_all(PROMPT, 20, [0, 0])
    trace.core.step()
    assert trace.scheduler.num_blocks_used == 10
    assert [len(trace.news[i].token_ids) for i in ids] == [1, 1, 1]
    trace.core.step()
    assert trace.scheduler.num_blocks_used == 12
    trace.run()
    assert trace.rows_computed == 300 + 3 * 19
    texts = [trace.news[i].token_ids for i in ids]
    assert texts[0] == texts[1] == texts[2]
    apart = [trace.submit(PROMPT[::-1], 20), trace.submit([*PROMPT[1:], 1], 20)]
    apart.append(trace.submit([*PROMPT[2:], 1, 1], 20))
    trace.core.step()
    assert trace.scheduler.num_blocks_used == 30


def test_each_ends_by_itself(trace: Trace) -> None:
    """A stop token that one of them draws ends that one; the others go on."""
    ids = trace.submit_all(PROMPT[:20], 30, [2, 3], sampling=DRAWN)
    trace.run()
    free = [trace.news[i].token_ids for i in ids]
    stop = next(token for token in free[1][3:] if token not in free[0] + free[2])
    ids = trace.submit_all(PROMPT[:20], 30, [2, 3], sampling=DRAWN, stop_token_ids=(stop,))
    trace.run()
    assert [trace.news[i].finish for i in ids] == ["length", "stop", "length"]
    assert trace.news[ids[1]].token_ids == free[1][: free[1].index(stop) + 1]


def test_all_may_end_with_their_first_token(trace: Trace) -> None:
    ids = trace.submit_all(PROMPT[:20], 1, [2, 3], sampling=DRAWN)
    nothing = trace.submit_all(
        PROMPT[:20],
        9,
        [2, 3],
        sampling=SamplingParams(allowed_ids=(4,), forbidden_ids=(4,)),
    )
    trace.run()
    assert [len(trace.news[i].token_ids) for i in ids] == [1, 1, 1]
    assert [trace.news[i].finish for i in ids] == ["length"] * 3
    assert [trace.news[i].finish for i in nothing] == ["dead_end"] * 3
    assert trace.scheduler.num_blocks_used == 0


def test_one_may_be_left_or_paused_while_the_others_go_on(trace: Trace) -> None:
    ids = trace.submit_all(PROMPT[:40], 50, [2, 3, 4], sampling=DRAWN)
    trace.core.step()
    trace.core.handle(Abort(ids[0]))
    trace.core.handle(Flow(ids[1], 0))
    trace.run()
    assert [len(trace.news[i].token_ids) for i in ids] == [1, 1, 50, 50]
    trace.core.handle(Flow(ids[1], PLENTY))
    trace.run()
    assert len(trace.news[ids[1]].token_ids) == 50
    assert trace.scheduler.num_blocks_used == 0


def test_an_abort_before_they_begin_ends_all(tiny_gemma: Path, cache_dir: Path) -> None:
    trace = Trace(tiny_gemma, cache_dir, max_num_batched_tokens=400)
    ids = trace.submit_all([7] * 1000, 5, [2, 3])
    trace.core.step()
    for sequence_id in ids:
        trace.core.handle(Abort(sequence_id))
    assert not trace.core.has_work
    assert (trace.scheduler.num_running, trace.scheduler.num_blocks_used) == (0, 0)


def test_a_fault_in_the_step_that_begins_them_ends_all(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace.submit_all(PROMPT[:9], 3, [2, 3])

    def explode(*_: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr("headstream.server.engine.report.Frames.token", explode)
        trace.run()
    assert [news.finish for news in trace.news.values()] == ["error"] * 3
    assert (trace.scheduler.num_running, trace.scheduler.num_blocks_used) == (0, 0)


def test_slots_are_kept_for_those_who_have_not_begun() -> None:
    """So that a step never has more sequences than it may have."""
    scheduler = Scheduler(BlockPool(100, BLOCK), 400, 4)

    def add(sequence_id: int, prompt: int, siblings: int) -> Sequence:
        others = tuple(Sibling(10 * sequence_id + i, 0) for i in range(1, siblings + 1))
        prompt_ids = tuple(text(sequence_id, prompt))
        sequence = Sequence(Submit(sequence_id, prompt_ids, 3, siblings=others), arrival_ns=0)
        if scheduler.fits(sequence):
            scheduler.add(sequence)
        return sequence

    add(1, 900, siblings=2)
    add(2, 20, siblings=1)
    add(3, 20, siblings=0)
    assert step(scheduler) == {1: 256}
    assert scheduler.num_running == 3
    assert step(scheduler) == {1: 256}
    assert step(scheduler) == {1: 388, 11: 0, 12: 0}
    assert step(scheduler) == {1: 1, 11: 1, 12: 1}
    assert step(scheduler) == {1: 1, 11: 1, 12: 1}
    assert step(scheduler) == {2: 20, 3: 20, 21: 0}
    assert not scheduler.fits(add(4, 20, siblings=4))


def random_request(rng: random.Random) -> dict[str, Any]:
    return {
        "token_ids": PROMPT[: rng.choice([1, 31, 32, 33, 100, 256, 290])],
        "max_new_tokens": rng.choice([1, 2, 30, 70]),
        "seeds": [rng.randrange(2**64) for _ in range(rng.randrange(5))],
        "sampling": SamplingParams(temperature=rng.choice([0.0, 3.0]), seed=rng.randrange(2**64)),
        "outputs": everything("generate", 0),
        "stop_token_ids": (5, 6) if rng.random() < 0.5 else (),
    }


@pytest.mark.parametrize("prefix_caching", [True, False])
@pytest.mark.parametrize("blocks", [200, 16])
def test_random_traces_leak_nothing_and_change_no_bit(
    tiny_gemma: Path, cache_dir: Path, blocks: int, prefix_caching: bool
) -> None:
    """Arrivals, single aborts, whole aborts, pauses; with few blocks also preemptions."""
    rng = random.Random(blocks)
    oracle = Trace(tiny_gemma, cache_dir, prefix_caching=False)
    settings = {"max_num_seqs": 10, "max_num_batched_tokens": 300}
    trace = narrow(tiny_gemma, cache_dir, blocks, prefix_caching=prefix_caching, **settings)
    expected: dict[int, News] = {}
    left: set[int] = set()
    for _ in range(30):
        request = random_request(rng)
        ids = trace.submit_all(**request)
        expected |= zip(ids, each_alone(oracle, **request), strict=True)
        for _ in range(rng.randrange(30)):
            trace.core.step()
            trace.scheduler.check_integrity()
        begun = [i for i in expected if trace.news[i].token_ids]
        if rng.random() < 0.3:
            left.update(victims := rng.choice([ids, begun[-1:]]))
            for victim in victims:
                trace.core.handle(Abort(victim))
        for sequence_id in begun:
            trace.core.handle(Flow(sequence_id, 0 if rng.random() < 0.1 else PLENTY))
    for sequence_id in expected:
        trace.core.handle(Flow(sequence_id, PLENTY))
    trace.run()
    assert trace.scheduler.num_blocks_used == 0
    assert (trace.scheduler.preemptions > 20) == (blocks == 16)
    finished = expected.keys() - left
    assert len(finished) > 50
    assert all(same(trace.news[i], expected[i]) for i in finished)
    assert {expected[i].finish for i in finished} == {"stop", "length"}
