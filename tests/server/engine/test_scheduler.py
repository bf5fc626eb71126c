"""The schedule: one budget, grid cuts, order, preemption, pause."""

from __future__ import annotations

import random

import pytest

from dry_run import BLOCK, step
from headstream.model.batch import PREFILL_GRID
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.messages import Submit
from headstream.server.engine.scheduler import Scheduler
from headstream.server.engine.sequence import Sequence


def _sequence(sequence_id: int, prompt: int, new: int = 4) -> Sequence:
    first = 1000 * sequence_id  # no two share a beginning
    prompt_ids = tuple(range(first, first + prompt))
    return Sequence(Submit(sequence_id, prompt_ids, max_new_tokens=new), arrival_ns=0)


def _scheduler(blocks: int = 100, budget: int = 512, seqs: int = 16) -> Scheduler:
    return Scheduler(BlockPool(blocks, BLOCK), budget, seqs)


def test_budget_that_could_starve_prompts_is_refused() -> None:
    """Decoding rows must always leave room for one grid chunk."""
    with pytest.raises(ValueError, match=str(PREFILL_GRID + 16)):
        _scheduler(budget=PREFILL_GRID + 15)
    _scheduler(budget=PREFILL_GRID + 16)


def test_long_prompt_is_cut_on_the_grid_beside_decoding() -> None:
    """Decode rows first, then whole grid chunks, then what is left of the prompt."""
    scheduler = _scheduler(budget=300)
    scheduler.add(_sequence(1, 5, new=10))
    assert step(scheduler) == {1: 5}
    scheduler.add(_sequence(2, 600))
    assert step(scheduler) == {1: 1, 2: 256}
    assert step(scheduler) == {1: 1, 2: 256}
    assert step(scheduler) == {1: 1, 2: 88}
    assert step(scheduler) == {1: 1, 2: 1}


def test_a_chunk_that_does_not_fit_waits_whole() -> None:
    """Two prompts, room for one and a half: the second runs in the next step."""
    scheduler = _scheduler(budget=400)
    scheduler.add(_sequence(1, 256))
    scheduler.add(_sequence(2, 300))
    assert step(scheduler) == {1: 256}
    assert step(scheduler) == {1: 1, 2: 256}


def test_the_majority_decides_how_long_a_step_is() -> None:
    """More first tokens than next tokens to come: the whole budget. Otherwise a quarter of it."""
    scheduler = _scheduler(budget=2048, blocks=1000)
    scheduler.add(_sequence(1, 5, new=50))
    assert step(scheduler) == {1: 5}
    scheduler.add(_sequence(2, 3000))
    assert step(scheduler) == {1: 1, 2: 256}  # one against one: nobody waits longer than needed
    scheduler.add(_sequence(3, 300))
    assert step(scheduler) == {1: 1, 2: 1792}
    assert step(scheduler) == {1: 1, 2: 952, 3: 300}
    assert step(scheduler) == {1: 1, 2: 1, 3: 1}


def test_youngest_is_preempted_and_comes_first_in_line() -> None:
    """Out of blocks: the youngest goes, keeps its tokens, and returns before newer ones."""
    scheduler = _scheduler(blocks=8)
    scheduler.add(_sequence(1, 96, new=100))
    scheduler.add(_sequence(2, 96, new=30))
    scheduler.add(_sequence(3, 96, new=5))
    finished_order = []
    seen: set[int] = set()
    for _ in range(500):
        rows = step(scheduler)
        if not rows:
            break
        for sequence_id in (1, 2, 3):
            if scheduler.get(sequence_id) is None and sequence_id not in seen:
                seen.add(sequence_id)
                finished_order.append(sequence_id)
    assert scheduler.preemptions > 0
    assert sorted(finished_order) == [1, 2, 3], "no request is lost"
    assert finished_order.index(2) < finished_order.index(3), "first come, first served"
    assert scheduler.num_blocks_used == 0


def test_paused_sequences_are_passed_over() -> None:
    """A slow reader pauses its own sequence only, waiting or running."""
    scheduler = _scheduler()
    first, second = _sequence(1, 10), _sequence(2, 10)
    scheduler.add(first)
    scheduler.add(second)
    scheduler.pause(first, paused=True)
    assert step(scheduler) == {2: 10}
    scheduler.pause(first, paused=False)
    scheduler.pause(second, paused=True)
    assert step(scheduler) == {1: 10}
    scheduler.pause(first, paused=True)
    assert (scheduler.has_work, step(scheduler)) == (False, {})
    scheduler.pause(second, paused=False)
    assert step(scheduler) == {2: 1}


def test_random_traces_leak_nothing_and_finish_all() -> None:
    """Arrivals, aborts, pauses and memory pressure in random order."""
    for seed in range(20):
        rng = random.Random(seed)
        scheduler = _scheduler(blocks=rng.choice([24, 40, 100]), budget=rng.choice([280, 512]))
        alive: dict[int, Sequence] = {}
        for sequence_id in range(60):
            sequence = _sequence(
                sequence_id, rng.choice([1, 31, 32, 200, 256, 500]), 1 + rng.randrange(60)
            )
            assert scheduler.fits(sequence) == (
                -(-sequence.max_tokens // 32) <= scheduler.pool.num_blocks
            )
            if not scheduler.fits(sequence):
                continue
            scheduler.add(sequence)
            alive[sequence_id] = sequence
            for _ in range(rng.randrange(4)):
                step(scheduler)
            if rng.random() < 0.2:
                scheduler.remove(alive.pop(rng.choice(list(alive))))
            if alive and rng.random() < 0.3:
                chosen = rng.choice(list(alive.values()))
                scheduler.pause(chosen, paused=rng.random() < 0.5)
        for sequence in alive.values():
            scheduler.pause(sequence, paused=False)
        for _ in range(20000):
            if not scheduler.has_work:
                break
            assert step(scheduler), "work is left, but nothing is scheduled"
        assert not scheduler.has_work
        assert all(sequence.is_done for sequence in alive.values())
        assert scheduler.num_blocks_used == 0


# --- Sequences that cannot be cut ---


def _whole(sequence_id: int, length: int) -> Sequence:
    spec = _sequence(sequence_id, length, new=0).spec
    return Sequence(spec, arrival_ns=0, is_whole=True)


def test_a_whole_text_is_never_cut() -> None:
    scheduler = _scheduler(budget=512)
    for sequence_id, length in enumerate((300, 100, 300, 20), start=1):
        scheduler.add(_whole(sequence_id, length))
    assert step(scheduler) == {1: 300, 2: 100}
    assert step(scheduler) == {3: 300, 4: 20}


def test_a_whole_text_longer_than_a_step_has_one_of_its_own() -> None:
    scheduler = _scheduler(budget=512)
    for sequence_id, length in enumerate((40, 700, 512, 1), start=1):
        scheduler.add(_whole(sequence_id, length))
    assert step(scheduler) == {1: 40}
    assert step(scheduler) == {2: 700}
    assert step(scheduler) == {3: 512}
    assert step(scheduler) == {4: 1}
    assert not scheduler.has_work
