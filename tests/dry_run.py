"""A scheduler whose steps nobody computes: rows are counted, and every drawn token is a 7."""

from __future__ import annotations

import random
from typing import Any

from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.messages import Submit
from headstream.server.engine.scheduler import Scheduler
from headstream.server.engine.sequence import Sequence

BLOCK = 32  # tokens


class DryRun:
    """Submits, steps, and what the cache holds."""

    def __init__(self, blocks: int = 200, budget: int = 4096, **settings: bool) -> None:
        self.scheduler = Scheduler(BlockPool(blocks, BLOCK), budget, 16, **settings)
        self._next_id = 0

    def add(self, prompt: list[int], new: int = 1, **spec: Any) -> Sequence:
        """A sequence at the end of the line; ids count from 1."""
        self._next_id += 1
        sequence = Sequence(Submit(self._next_id, tuple(prompt), new, **spec), arrival_ns=0)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> dict[int, int]:
        """See :func:`step`."""
        return step(self.scheduler)

    def rows(self, prompt: list[int], new: int = 1, **spec: Any) -> int:
        """Rows computed until a request is done; it runs alone."""
        self.add(prompt, new, **spec)
        total = 0
        while self.scheduler.has_work:
            rows = self.step()
            assert rows, "work is left, but nothing is scheduled"
            total += sum(rows.values())
        return total

    def cached(self, sequence: Sequence) -> list[bool]:
        """Which chunks of a prompt are in the cache."""
        return [key in self.scheduler.cache._chunks for key in sequence.chunk_keys]


def step(scheduler: Scheduler) -> dict[int, int]:
    """Schedule and pretend that the rows were computed and tokens drawn: rows by sequence id."""
    schedule = scheduler.schedule()
    drawn = [sequence for sequence, rows in schedule.items() if sequence.wants_token(rows)]
    scheduler.advance(schedule)
    drawn += [sequence for sequence, rows in schedule.items() if not rows]  # siblings that begin
    for sequence in schedule:
        sequence.num_reported = max(sequence.num_reported, sequence.num_computed)
        assert len(sequence.block_ids) * scheduler.pool.block_size >= sequence.num_computed
    for sequence in drawn:
        sequence.append(7)
    for sequence in schedule:
        if sequence.is_done:
            scheduler.remove(sequence)
    scheduler.check_integrity()
    return {sequence.spec.id: rows for sequence, rows in schedule.items()}


def text(seed: int, length: int) -> list[int]:
    """Random token ids."""
    rng = random.Random(seed)
    return [rng.randrange(1000) for _ in range(length)]
