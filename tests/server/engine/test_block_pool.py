"""Block ids are never lost, never shared by accident, and misuse is caught."""

from __future__ import annotations

import random

import pytest

from headstream.server.engine.block_pool import BlockPool


def test_any_trace_keeps_integrity() -> None:
    """Random allocate, share and release against the tables that hold the blocks."""
    rng = random.Random(3)
    pool = BlockPool(num_blocks=50, block_size=16)
    tables: list[list[int]] = []
    for _ in range(3000):
        action = rng.random()
        if action < 0.45 and pool.can_allocate(count := rng.randrange(6)):
            tables.append(list(pool.allocate(count)))
        elif action < 0.6 and tables:
            copy = list(rng.choice(tables))
            pool.share(copy)
            tables.append(copy)
        elif tables:
            pool.release(tables.pop(rng.randrange(len(tables))))
        pool.check_integrity(tables)
    for table in tables:
        pool.release(table)
    pool.check_integrity([])
    assert pool.num_free == 50


def test_integrity_check_finds_a_leak() -> None:
    """Negative control."""
    pool = BlockPool(4, 16)
    pool.allocate(2)
    with pytest.raises(AssertionError, match="references differ"):
        pool.check_integrity([])


def test_misuse_is_refused() -> None:
    """Releasing twice, sharing a free block, taking more than there is."""
    pool = BlockPool(2, 16)
    blocks = pool.allocate(2)
    with pytest.raises(AssertionError, match="ask first"):
        pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(blocks[:1])
    with pytest.raises(AssertionError, match="cannot be shared"):
        pool.share(blocks[:1])


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2)])
def test_blocks_for(tokens: int, blocks: int) -> None:
    """Whole blocks, rounded up."""
    assert BlockPool(4, 16).blocks_for(tokens) == blocks
