"""Who holds slots and blocks of memory, and who gives some up for whom."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.branches import Branches
from headstream.server.engine.plan import Plan
from headstream.server.engine.prefix_cache import PrefixCache
from headstream.server.engine.sequence import Sequence
from headstream.server.engine.shares import may_ask, note_displaced, to_displace, to_give_up
from headstream.server.engine.waiting import Waiting


class Holders:
    """Running sequences, in order of arrival, and branches that are going.

    Who is preempted loses its blocks and waits, first in line, to be computed again.
    """

    def __init__(
        self,
        pool: BlockPool,
        cache: PrefixCache,
        branches: Branches,
        waiting: Waiting,
        max_num_seqs: int,
    ) -> None:
        self.running: dict[Sequence, None] = {}
        self.preemptions = 0
        self._pool = pool
        self._cache = cache
        self._branches = branches
        self._waiting = waiting
        self._max_num_seqs = max_num_seqs

    def __contains__(self, sequence: object) -> bool:
        return sequence in self.running or sequence in self._branches.going

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self._branches.going

    @property
    def num_slots(self) -> int:
        """Sequences that have a slot, or have one kept for them."""
        return sum(each.num_slots for each in self.running) + len(self._branches.going)

    @property
    def free_slots(self) -> int:
        """Those that nobody has."""
        return self._max_num_seqs - self.num_slots

    def start(self, sequence: Sequence, step: int) -> None:
        """Give it the slots that it needs; there are so many."""
        sequence.start_step = step
        (self._branches.going if sequence.spec.branch else self.running)[sequence] = None

    def share_slots(self, heads: Iterable[Sequence], plan: Plan) -> None:
        """Let every tenant run something; what others give up for it is computed again later.

        Args:
            heads: The first of each tenant that wants to run.
            plan: Whoever gives up a slot computes nothing.
        """
        for head in heads:
            if plan.budget_for(head) <= 0:
                continue
            if not may_ask(head, self.running, self._branches.going, self._max_num_seqs):
                continue
            rows = head.next_rows(plan.budget_for(head))
            left, given = dict(self.running), list[Sequence]()
            while rows and not self._has_room(head, rows, given):
                each = to_give_up(left, head)
                if each is None:  # nobody gives up anything in vain
                    given.clear()
                    break
                given.append(each)
                del left[each]
            for each in given:
                self.preempt(each)
                plan.drop(each)

    def displace(self, sequence: Sequence, plan: Plan, step: int) -> None:
        """Make room for a waiting sequence, if those who are less urgent have enough of it."""
        rows = sequence.next_rows(plan.budget_for(sequence))
        if not rows or self._has_room(sequence, rows):
            return
        displaced = to_displace(self.running, sequence, step)
        if not self._has_room(sequence, rows, displaced):
            return
        for each in displaced:
            note_displaced(each)
            self.preempt(each)
            plan.drop(each)
            if self._has_room(sequence, rows):
                break

    def take_blocks(self, sequence: Sequence, rows: int, plan: Plan) -> bool:
        """Grow the block table for ``rows`` more positions, preempting the least urgent.

        Of these branches come first, then the young.
        """
        while not self.allocate(sequence, rows, plan):
            given = min(reversed([*self]), key=lambda each: each.priority)
            if given.priority < sequence.priority:
                note_displaced(given)
            self.preempt(given)
            plan.drop(given)
            if given is sequence:
                return False
        return True

    def allocate(self, sequence: Sequence, rows: int, plan: Plan) -> bool:
        """Grow the block table for ``rows`` more positions, if memory nobody needs now suffices."""
        end = sequence.num_computed + rows
        shared = sequence.is_forked and self._pool.is_shared(
            sequence.block_ids, sequence.num_computed
        )
        if end <= len(sequence.block_ids) * self._pool.block_size and not shared:
            return True
        wanted = self._pool.blocks_for(end) - len(sequence.block_ids) + shared
        while (missing := wanted - self._pool.num_free) > self._cache.num_idle:
            if not self._branches.reclaim():
                return False
            self.preemptions += 1
        self._cache.evict(missing)
        fresh = self._pool.allocate(wanted)
        if shared:
            plan.block_copies[sequence] = self._pool.replace(
                sequence.block_ids, sequence.num_computed, fresh.pop()
            )
        sequence.block_ids += fresh
        return True

    def _has_room(self, sequence: Sequence, rows: int, without: Collection[Sequence] = ()) -> bool:
        """Whether there are slots for a waiting sequence, and blocks for so many of its rows.

        ``without``: running sequences that would make room, with all blocks that they alone hold.
        """
        slots = self.free_slots + sum(each.num_slots for each in without)
        blocks = self._pool.num_free + self._cache.num_freed(without)
        wanted = self._pool.blocks_for(rows)
        return sequence.num_slots <= slots and wanted <= blocks + self._cache.num_idle

    def preempt(self, sequence: Sequence) -> None:
        """Take its slot and its blocks; it waits, first in line, to be computed again."""
        self.preemptions += 1
        sequence.num_preempted += 1
        if sequence.spec.branch:
            self._branches.preempt(sequence)
            return
        del self.running[sequence]
        self._cache.cut(sequence, 0)
        for view in sequence.views:
            view.forget()
        self._waiting.add(sequence, first=True)
