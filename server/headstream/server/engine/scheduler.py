"""Decides what the next step computes: {sequence: rows} under one token budget, without phases."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from headstream.model.batch import PREFILL_GRID
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A sequence's share of a step: the positions [num_computed, num_computed + num_rows)."""

    sequence: Sequence
    num_rows: int


class Scheduler:
    """Owns the sequences and their block ids.

    Running sequences stand in order of arrival. When memory is out the youngest is preempted: its
    blocks are freed and it waits, first in line, to be computed again.
    """

    def __init__(self, pool: BlockPool, max_num_batched_tokens: int, max_num_seqs: int) -> None:
        """Raises ValueError if a step of decoding sequences could leave no room for a prompt."""
        if max_num_batched_tokens < PREFILL_GRID + max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens is {max_num_batched_tokens}, but must be at least "
                f"{PREFILL_GRID} + max_num_seqs = {PREFILL_GRID + max_num_seqs}"
            )
        self.pool = pool
        self.preemptions = 0
        self._budget = max_num_batched_tokens
        self._max_num_seqs = max_num_seqs
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._by_id: dict[int, Sequence] = {}

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for their first step, or to be computed again."""
        return len(self._waiting)

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of the waiting sequences."""
        return sum(sequence.num_tokens for sequence in self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step could compute anything."""
        return any(not s.paused for s in self._running) or any(not s.paused for s in self._waiting)

    def fits(self, sequence: Sequence) -> bool:
        """Whether the pool could hold the sequence at its full length."""
        return self.pool.blocks_for(sequence.max_tokens) <= self.pool.num_blocks

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the line; it must fit."""
        self._by_id[sequence.spec.id] = sequence
        self._waiting.append(sequence)

    def get(self, sequence_id: int) -> Sequence | None:
        """The sequence with this id, if it is still here."""
        return self._by_id.get(sequence_id)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, finished or aborted, at any moment, and free what it holds."""
        if self._by_id.pop(sequence.spec.id, None) is None:
            return
        if sequence in self._running:
            self._running.remove(sequence)
            self.pool.release(sequence.block_ids)
            sequence.block_ids = []
        else:
            self._waiting.remove(sequence)

    def schedule(self) -> list[Scheduled]:
        """Choose the rows of the next step and take the blocks they need.

        Sequences with one token behind come first, so that a long prompt never stalls them; then
        prompts under way, in order of arrival; then new ones.
        """
        chosen: dict[Sequence, int] = {}
        budget = self._budget
        for sequence in sorted(self._running, key=lambda s: s.num_pending > 1):
            if sequence.paused or sequence not in self._running:  # paused, or preempted just now
                continue
            rows = sequence.next_rows(budget)
            if rows and self._take_blocks(sequence, rows, chosen):
                chosen[sequence] = rows
            budget = self._budget - sum(chosen.values())
        self._admit(chosen, budget)
        return [Scheduled(sequence, rows) for sequence, rows in chosen.items()]

    def _admit(self, chosen: dict[Sequence, int], budget: int) -> None:
        """Start waiting sequences, first come first served, while rows and blocks are free."""
        paused: list[Sequence] = []
        while self._waiting and len(self._running) < self._max_num_seqs:
            sequence = self._waiting[0]
            if sequence.paused:
                paused.append(self._waiting.popleft())
                continue
            rows = sequence.next_rows(budget)
            blocks = self.pool.blocks_for(rows)
            if rows == 0 or not self.pool.can_allocate(blocks):
                break
            self._waiting.popleft()
            self._running.append(sequence)
            sequence.block_ids = self.pool.allocate(blocks)
            chosen[sequence] = rows
            budget -= rows
        self._waiting.extendleft(reversed(paused))

    def _take_blocks(self, sequence: Sequence, rows: int, chosen: dict[Sequence, int]) -> bool:
        """Grow the block table for ``rows`` more positions, preempting younger sequences."""
        wanted = self.pool.blocks_for(sequence.num_computed + rows) - len(sequence.block_ids)
        while not self.pool.can_allocate(wanted):
            youngest = self._running[-1]
            self._preempt(youngest)
            chosen.pop(youngest, None)
            if youngest is sequence:
                return False
        sequence.block_ids += self.pool.allocate(wanted)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self.pool.release(sequence.block_ids)
        sequence.restart()
        self._waiting.appendleft(sequence)
        self.preemptions += 1

    def check_integrity(self) -> None:
        """Prove that no block leaked; see :meth:`BlockPool.check_integrity`."""
        self.pool.check_integrity(sequence.block_ids for sequence in self._running)
