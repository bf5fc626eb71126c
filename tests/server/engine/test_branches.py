"""Branches of sessions: whatever is done to them, their rows are those of their tokens alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from branch_driver import FULL, Driver, forward_oracle, session_oracle
from engine_trace import DTYPES, PLENTY, Trace, alone, everything, same
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.messages import Abort, Append, Flow, Rollback
from headstream.server.engine.sequence import MAX_LOGIT_ROWS
from tiny_models import D_VOCAB

TEXT = [(37 * i + 11) % D_VOCAB for i in range(300)]


def _trace(directory: Path, cache_dir: Path, blocks: int, **settings: object) -> Trace:
    """An engine with so many blocks."""
    block_bytes = Trace(directory, cache_dir, **settings).block_bytes
    return Trace(directory, cache_dir, kv_cache_bytes=blocks * block_bytes, **settings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", [200, 24])
def test_a_thousand_random_moves_give_the_bits_of_a_fresh_forward(
    tiny_gemma: Path, cache_dir: Path, dtype: str, blocks: int
) -> None:
    """With few blocks most branches lose theirs and are computed again."""
    trace = _trace(tiny_gemma, cache_dir, blocks, dtype=dtype)
    driver = Driver(trace, forward_oracle(tiny_gemma, cache_dir, dtype=dtype), seed=blocks)
    driver.play(300, trace.run)
    assert driver.moves > 1000
    assert driver.rows > 3000
    assert (trace.scheduler.preemptions > 50) == (blocks == 24)


@pytest.mark.usefixtures("torch_kernels")
@pytest.mark.parametrize("blocks", [200, 24])
def test_with_torch_operators_the_bits_are_those_of_a_fresh_session(
    tiny_gemma: Path, cache_dir: Path, blocks: int
) -> None:
    """Prompt rows and other rows run through other kernels there, and each keeps to its own."""
    trace = _trace(tiny_gemma, cache_dir, blocks)
    driver = Driver(trace, session_oracle(tiny_gemma, cache_dir), seed=blocks)
    driver.play(50, trace.run)
    assert driver.rows > 300


def test_without_copy_on_write_the_bits_differ(
    tiny_gemma: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(BlockPool, "is_shared", lambda *_: False)
    trace = Trace(tiny_gemma, cache_dir)
    driver = Driver(trace, forward_oracle(tiny_gemma, cache_dir, dtype="float32"), seed=200)
    with pytest.raises(AssertionError, match="other rows came"):
        driver.play(300, trace.run)


def test_sessions_and_requests_in_too_little_memory(tiny_gemma: Path, cache_dir: Path) -> None:
    """All get the bits they get alone; requests never wait for a branch that rests."""
    rng = random.Random(0)
    requests: list[dict[str, Any]] = [
        {
            "token_ids": [rng.randrange(D_VOCAB) for _ in range(rng.choice([5, 40, 256, 300]))],
            "max_new_tokens": rng.choice([1, 30, 90]),
            "outputs": everything("generate", 0),
        }
        for _ in range(25)
    ]
    expected = alone(Trace(tiny_gemma, cache_dir, prefix_caching=False), requests)
    trace = _trace(tiny_gemma, cache_dir, 30, max_num_batched_tokens=400, max_num_seqs=6)
    driver = Driver(trace, forward_oracle(tiny_gemma, cache_dir, dtype="float32"), seed=1)
    ids: list[int] = []

    def between() -> None:
        if rng.random() < 0.1 and len(ids) < len(requests):
            ids.append(trace.submit(**requests[len(ids)]))
        for _ in range(rng.randint(1, 4)):
            trace.core.step()

    driver.play(350, between)
    assert len(ids) == len(requests)
    assert driver.rows > 1500
    assert trace.scheduler.preemptions > 50
    for sequence_id, news in zip(ids, expected, strict=True):
        assert same(trace.news[sequence_id], news)


@pytest.fixture
def trace(tiny_gemma: Path, cache_dir: Path) -> Trace:
    return Trace(tiny_gemma, cache_dir)


def _open(trace: Trace, length: int, new: int = 100) -> int:
    branch_id = trace.submit(TEXT[:length], new, outputs=FULL, branch=True)
    trace.run()
    return branch_id


def test_an_idle_branch_is_no_work_and_keeps_its_blocks(trace: Trace) -> None:
    _open(trace, 33)
    assert not trace.core.has_work
    assert trace.scheduler.num_running == 0
    assert trace.scheduler.num_blocks_used == 2


def test_forks_share_all_blocks_until_one_goes_on(trace: Trace) -> None:
    """Then it copies the block it writes in, and nobody copies for the last holder."""
    branch = _open(trace, 70)
    twins = [trace.fork(branch) for _ in range(3)]
    assert trace.scheduler.num_blocks_used == 3
    for used, twin in zip((4, 5, 6), twins, strict=True):
        trace.core.handle(Append(twin, (1,)))
        trace.run()
        assert trace.scheduler.num_blocks_used == used
    trace.core.handle(Append(branch, (1,)))
    trace.run()
    assert trace.scheduler.num_blocks_used == 6
    for twin in twins:
        trace.core.handle(Abort(twin))
    assert trace.scheduler.num_blocks_used == 3


def test_a_fork_has_a_reader_of_its_own(trace: Trace) -> None:
    """What was told of the branch it comes from is neither told of it nor read."""
    branch = _open(trace, 10)
    trace.core.handle(Append(branch, (1, 2, 3)))
    trace.run()
    twin = trace.fork(branch)
    trace.core.handle(Append(twin, (4, 5)))
    trace.run()
    [told] = [
        delta.told_bytes
        for report in trace.reports
        for delta in report.deltas
        if delta.id == twin and delta.told_bytes
    ]
    assert told == 2 * trace.ready.d_vocab * 4


def test_rollback_frees_what_nobody_else_holds(trace: Trace) -> None:
    branch = _open(trace, 10, new=300)
    trace.core.handle(Append(branch, tuple(TEXT[:200])))
    trace.run()
    twin = trace.fork(branch)
    assert trace.scheduler.num_blocks_used == 7
    trace.core.handle(Rollback(branch, 40, row=False))
    assert trace.scheduler.num_blocks_used == 7
    trace.core.handle(Rollback(twin, 65, row=False))
    assert trace.scheduler.num_blocks_used == 3
    assert not trace.core.has_work


def test_rollback_into_a_cached_chunk_of_the_prompt(trace: Trace) -> None:
    """The chunk stays in the cache for others, and nobody writes to it."""
    branch = _open(trace, 300)
    trace.core.handle(Rollback(branch, 250, row=False))
    trace.scheduler.check_integrity()
    assert trace.scheduler.cache.num_idle == 8
    trace.core.handle(Append(branch, (1, 2)))
    trace.run()
    before = trace.rows_computed
    _open(trace, 300)
    assert trace.rows_computed - before == 300 - 256


def test_branches_that_move_together_share_a_step(trace: Trace) -> None:
    branch = _open(trace, 20)
    twins = [trace.fork(branch) for _ in range(4)]
    for i, twin in enumerate(twins):
        trace.core.handle(Append(twin, tuple(range(1, 2 + i))))
    steps = len(trace.reports)
    trace.run()
    assert len(trace.reports) - steps == 1
    assert [len(trace.news[twin].logit_rows) for twin in twins] == [1, 2, 3, 4]


def test_a_long_append_takes_steps_that_a_slow_reader_holds_up(trace: Trace) -> None:
    branch = _open(trace, 5, new=300)
    trace.core.handle(Append(branch, tuple(TEXT[:200])))
    trace.core.step()
    assert len(trace.news[branch].logit_rows) == 1 + MAX_LOGIT_ROWS
    trace.core.handle(Flow(branch, 0))
    assert not trace.core.has_work
    trace.core.handle(Flow(branch, PLENTY))
    trace.run()
    assert [position for position, _ in trace.news[branch].logit_rows] == list(range(4, 205))


def test_a_fault_ends_the_branches_of_its_step_only(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = _open(trace, 20)
    twin = trace.fork(branch)

    def explode(_: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(trace.runner, "run", explode)
        trace.core.handle(Append(branch, (1,)))
        trace.run()
    assert trace.news[branch].finish == "error"
    trace.core.handle(Append(branch, (1,)))  # sent before the front knew
    late = trace.fork(branch)
    trace.core.handle(Append(twin, (1,)))
    trace.run()
    assert trace.news[late].finish == "error"
    assert [position for position, _ in trace.news[twin].logit_rows] == [20]
    trace.core.handle(Abort(twin))
    assert trace.scheduler.num_blocks_used == 0


def test_half_of_the_slots_are_left_to_who_waits(tiny_gemma: Path, cache_dir: Path) -> None:
    """Branches that go on at every step do not keep a new request out."""
    trace = Trace(tiny_gemma, cache_dir, max_num_seqs=4, max_num_batched_tokens=300)
    branch = _open(trace, 20)
    branches = [branch, *(trace.fork(branch) for _ in range(7))]
    request = trace.submit(TEXT[:9], 3)
    awaited = dict.fromkeys(branches, 0) | {branch: 1}
    for _ in range(4):
        for twin in branches:
            if len(trace.news[twin].logit_rows) == awaited[twin]:
                trace.core.handle(Append(twin, (1,)))
                awaited[twin] += 1
        trace.core.step()
    assert len(trace.news[request].token_ids) == 3


def test_a_long_prompt_does_not_stall_what_is_appended(tiny_gemma: Path, cache_dir: Path) -> None:
    trace = Trace(tiny_gemma, cache_dir, max_num_batched_tokens=400)
    branch = _open(trace, 20)
    request = trace.submit([TEXT[i % 300] for i in range(1500)], 1)
    trace.core.step()
    trace.core.handle(Append(branch, (1, 2, 3)))
    trace.core.step()
    assert len(trace.news[branch].logit_rows) == 4
    assert not trace.news[request].token_ids


def test_appended_rows_leave_room_for_a_prompt(tiny_gemma: Path, cache_dir: Path) -> None:
    """However many branches go on, each step has rows for a chunk of a prompt."""
    trace = Trace(tiny_gemma, cache_dir, max_num_seqs=8, max_num_batched_tokens=300)
    branch = _open(trace, 20, new=2000)
    branches = [branch, *(trace.fork(branch) for _ in range(3))]
    for twin in branches:
        trace.core.handle(Append(twin, tuple(TEXT[:280])))
    request = trace.submit([TEXT[i % 300] for i in range(700)], 1)
    for _ in range(3):
        trace.core.step()
    assert trace.news[request].token_ids
    assert trace.core.has_work
    trace.run()
    assert all(len(trace.news[twin].logit_rows) >= 280 for twin in branches)
