"""Who holds a chunk, what goes first when memory is short, and that nothing is lost. No model."""

from __future__ import annotations

import random

import pytest

from dry_run import BLOCK, DryRun, step, text
from headstream.model.batch import PREFILL_GRID
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.messages import Submit
from headstream.server.engine.scheduler import Scheduler
from headstream.server.engine.sequence import Sequence

CHUNK_BLOCKS = PREFILL_GRID // BLOCK


def test_chunks_computed_twice_in_one_step_are_kept_once() -> None:
    """Both sequences go on with the same blocks; only their tails are their own."""
    run = DryRun()
    first, second = run.add(text(0, 600), new=5), run.add(text(0, 600), new=5)
    assert run.step() == {1: 600, 2: 600}
    shared = 2 * CHUNK_BLOCKS
    assert first.block_ids[:shared] == second.block_ids[:shared]
    assert first.block_ids[shared:] != second.block_ids[shared:]
    assert run.scheduler.num_blocks_used == shared + 3 + 3
    while run.scheduler.has_work:
        run.step()
    assert (run.scheduler.num_blocks_used, run.scheduler.cache.num_idle) == (0, shared)


def test_the_longest_unused_goes_first_and_chains_from_their_end() -> None:
    """Least recently used: a hit renews a chunk and all before it."""
    run = DryRun()
    a, b = text(1, 768), text(2, 512)
    for prompt in (a, b, a[:512] + text(3, 10)):
        run.rows(prompt)
    at_a, at_b = run.add(a), run.add(b)
    left = []
    for _ in range(6):
        left.append((run.cached(at_a), run.cached(at_b)))
        run.scheduler.cache.evict(min(1, run.scheduler.cache.num_idle))
    assert left == [
        ([True, True, True], [True, True]),
        ([True, True, False], [True, True]),
        ([True, True, False], [True, False]),
        ([True, True, False], [False, False]),
        ([True, False, False], [False, False]),
        ([False, False, False], [False, False]),
    ]


def test_free_blocks_are_taken_before_cached_ones() -> None:
    """Nothing is evicted while a block is free; then chunks go before a sequence is preempted."""
    run = DryRun(blocks=3 * CHUNK_BLOCKS)
    old = run.add(text(0, 512))
    run.step()
    run.rows(text(1, 255))
    assert run.cached(old) == [True, True]
    run.rows(text(2, 257))
    assert run.cached(old) == [True, False]
    assert run.rows(text(3, 767)) == 767
    assert run.cached(old) == [False, False]
    assert run.scheduler.preemptions == 0


def test_chunks_in_use_are_never_evicted() -> None:
    """A prompt that needs the blocks of a running one waits for its end."""
    run = DryRun(blocks=3 * CHUNK_BLOCKS)
    holder = run.add(text(0, 512), new=20)
    run.step()
    run.add(text(1, 500))
    for _ in range(19):
        assert run.step() == {1: 1}
        assert run.cached(holder) == [True, True]
    assert run.step() == {2: 500}


def test_integrity_check_finds_a_leaked_chunk() -> None:
    """Negative control: a reference nobody counts, and a chunk that could never be evicted."""
    run = DryRun()
    run.rows(text(0, 600))
    cache = run.scheduler.cache
    key, blocks = next(iter(cache._chunks.items()))
    del cache._chunks[key]
    with pytest.raises(AssertionError, match="references differ"):
        run.scheduler.check_integrity()
    cache._chunks[key] = blocks
    run.scheduler.check_integrity()
    del cache._idle[key]
    with pytest.raises(AssertionError, match="idle chunks"):
        run.scheduler.check_integrity()


@pytest.mark.parametrize("block_size", [5, 32, 48, 256, 512])
def test_chunks_end_on_the_grid_and_on_blocks(block_size: int) -> None:
    """Whatever the block size, a hit ends where a prompt may be cut and where a block ends."""
    scheduler = Scheduler(BlockPool(2000, block_size), 8192, 4)
    size = scheduler.cache.chunk_size
    assert (size % PREFILL_GRID, size % block_size) == (0, 0)
    prompt = tuple(text(0, 2 * size + 7))
    computed = []
    for sequence_id in range(2):
        scheduler.add(Sequence(Submit(sequence_id, prompt), arrival_ns=0))
        computed.append(0)
        while scheduler.has_work:
            computed[-1] += sum(step(scheduler).values())
    assert computed == [2 * size + 7, 7]


def test_no_chunk_outlives_the_one_before_it() -> None:
    """Random arrivals, aborts, pauses and memory pressure over texts that branch everywhere."""
    evictions = preemptions = 0
    for seed in range(30):
        rng = random.Random(seed)
        run = DryRun(blocks=rng.choice([30, 60, 120]), budget=rng.choice([280, 700]))
        bases = [text(i, 900) for i in range(3)]
        seen: list[Sequence] = []
        for _ in range(50):
            shared = rng.randrange(900)
            prompt = rng.choice(bases)[:shared] + text(rng.randrange(5), 1 + rng.randrange(300))
            sequence = run.add(prompt, new=1 + rng.randrange(40))
            if not run.scheduler.fits(sequence):
                run.scheduler.remove(sequence)
                continue
            seen.append(sequence)
            for _ in range(rng.randrange(4)):
                before = set(run.scheduler.cache._chunks)
                run.step()
                evictions += len(before - run.scheduler.cache._chunks.keys())
                for known in seen:
                    chain = run.cached(known)
                    assert chain == sorted(chain, reverse=True), "a chunk without its beginning"
            if rng.random() < 0.3:
                run.scheduler.pause(rng.choice(seen), paused=rng.random() < 0.5)
            if rng.random() < 0.2:
                run.scheduler.remove(rng.choice(seen))
                run.scheduler.check_integrity()
        for sequence in seen:
            run.scheduler.pause(sequence, paused=False)
        for _ in range(20000):
            if not run.scheduler.has_work:
                break
            assert run.step(), "work is left, but nothing is scheduled"
        assert run.scheduler.num_blocks_used == 0
        assert 0 < run.scheduler.hit_tokens < run.scheduler.lookup_tokens
        preemptions += run.scheduler.preemptions
    assert evictions > 100
    assert preemptions > 100
