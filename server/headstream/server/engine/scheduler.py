"""Decides what the next step computes: {sequence: rows} under one token budget, without phases."""

from __future__ import annotations

from headstream.model.batch import PREFILL_GRID
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.branches import Branches
from headstream.server.engine.line import Line
from headstream.server.engine.plan import Plan, Schedule
from headstream.server.engine.prefix_cache import PrefixCache
from headstream.server.engine.sequence import Sequence
from headstream.server.engine.shares import may_ask, slots_of_tenants, to_give_up

_APPENDED_ROWS = 256  # of all branches in one step, whose logits are in memory together
_QUARTER = 4  # share of the budget while most sequences wait for a next token, not for a first


class Scheduler:
    """Owns the sequences and their block ids.

    Running sequences stand in order of arrival. When memory is out the youngest is preempted: its
    blocks are freed and it waits, first in line, to be computed again.
    """

    def __init__(
        self,
        pool: BlockPool,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        *,
        prefix_caching: bool = True,
    ) -> None:
        """Raises ValueError if a step of decoding sequences could leave no room for a prompt."""
        if max_num_batched_tokens < PREFILL_GRID + max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens is {max_num_batched_tokens}, but must be at least "
                f"{PREFILL_GRID} + max_num_seqs = {PREFILL_GRID + max_num_seqs}"
            )
        self.pool = pool
        self.cache = PrefixCache(pool, enabled=prefix_caching)
        # Half of the slots at most go to branches before anybody waits for one.
        self.branches = Branches(pool, self.cache, max(1, max_num_seqs // 2))
        self.block_copies: tuple[tuple[int, int], ...] = ()  # of the last schedule: from, to
        self.preemptions = 0
        self.lookup_tokens = 0  # prompt tokens of the sequences that were started
        self.hit_tokens = 0  # those that the cache had
        self._budget = max_num_batched_tokens
        self._max_num_seqs = max_num_seqs
        # Ordered sets.
        self._waiting = Line()
        self._running: dict[Sequence, None] = {}
        self._paused: set[Sequence] = set()  # of both
        self._by_id: dict[int, Sequence] = {}

    @property
    def num_running(self) -> int:
        """Sequences that have a slot, or have one kept for them."""
        return sum(each.num_slots for each in self._running) + len(self.branches.going)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for their first step, or to go on."""
        return len(self._waiting) + len(self.branches.line)

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of the sequences that wait for their first step."""
        return self._waiting.num_tokens

    @property
    def num_blocks_used(self) -> int:
        """Blocks that sequences hold."""
        return self.pool.num_used - self.cache.num_idle

    @property
    def has_work(self) -> bool:
        """Whether a step could compute anything."""
        places = (self._running, self._waiting, self.branches.going, self.branches.line)
        return any(sequence not in self._paused for place in places for sequence in place)

    def fits(self, sequence: Sequence) -> bool:
        """Whether there are slots for it and its siblings, and blocks for its full length."""
        blocks = self.pool.blocks_for(sequence.max_tokens)
        return blocks <= self.pool.num_blocks and sequence.num_slots <= self._max_num_seqs

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the line; it must fit."""
        prompt = sequence.token_ids[: sequence.num_prompt]
        sequence.chunk_keys = self.cache.keys(prompt, sequence.cache_salt)
        self._by_id[sequence.spec.id] = sequence
        self._waiting.add(sequence)

    def get(self, sequence_id: int) -> Sequence | None:
        """The sequence with this id, if it is still here."""
        return self._by_id.get(sequence_id)

    def fork(self, branch: Sequence, new_id: int) -> None:
        """A new branch that holds the blocks of another."""
        self._by_id[new_id] = self.branches.fork(branch, new_id)

    def pause(self, sequence: Sequence, *, paused: bool) -> None:
        """Pass a sequence over from now on, or no more; one that is gone stays gone."""
        if paused and sequence.spec.id in self._by_id:
            self._paused.add(sequence)
        else:
            self._paused.discard(sequence)

    def is_paused(self, sequence: Sequence) -> bool:
        """Whether it is passed over."""
        return sequence in self._paused

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, finished or aborted, at any moment, and free what it holds."""
        if self._by_id.pop(sequence.spec.id, None) is None:
            return
        self._paused.discard(sequence)
        if sequence in self._running:
            del self._running[sequence]
            self.cache.release(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            self.branches.remove(sequence)

    def schedule(self) -> Schedule:
        """Choose the rows of the next step and take the blocks they need.

        Sequences with one token behind come first, so that a long prompt never stalls them; then
        what was appended to branches; then prompts under way, in order of arrival; then new ones.
        """
        self.branches.start(self._max_num_seqs - self.num_running, self._paused)
        ready: list[Sequence] = []
        appended: list[Sequence] = []
        behind: list[Sequence] = []
        for sequence in (*self._running, *self.branches.going):
            if sequence in self._paused:
                continue
            if sequence.num_pending == 1:
                ready.append(sequence)
            else:
                (appended if sequence.is_appending else behind).append(sequence)
        plan = Plan(self._step_budget(len(ready), len(behind) + len(self._waiting)))
        for sequence in ready:
            if self._has_slot(sequence) and self._take_blocks(sequence, 1, plan):
                plan.add(sequence, 1)
        left = min(_APPENDED_ROWS, plan.budget - PREFILL_GRID)
        for sequence in appended:
            rows = sequence.next_rows(left)
            if rows and self._has_slot(sequence) and self._take_blocks(sequence, rows, plan):
                plan.add(sequence, rows)
                left -= rows
        for sequence in behind:
            if not self._has_slot(sequence):  # preempted just now
                continue
            self.hit_tokens += self.cache.take(sequence)  # others may have come further by now
            rows = sequence.next_rows(plan.budget_for(sequence))
            if rows and self._take_blocks(sequence, rows, plan):
                plan.add(sequence, rows)
        self._share_slots(plan)
        self._admit(plan)
        self.block_copies = tuple(plan.block_copies.values())
        return plan.rows

    def _step_budget(self, ready: int, prompts: int) -> int:
        """Rows of the next step.

        A long step reads more prompts at less cost, and lets everybody who waits for a next token
        wait longer. So the majority decides.
        """
        if prompts > ready:
            return self._budget
        return max(self._budget // _QUARTER, PREFILL_GRID + self._max_num_seqs)

    def advance(self, schedule: Schedule) -> None:
        """Count the rows of a step as computed; from now on others share its prompt chunks.

        Siblings that begin now join the schedule, without rows of their own.
        """
        beginning: list[Sequence] = []
        for sequence, rows in schedule.items():
            sequence.num_prompt_steps += sequence.num_computed < sequence.num_prompt
            sequence.num_computed += rows
            if sequence.num_chunks < len(sequence.chunk_keys):
                self.cache.put(sequence)
            if sequence.spec.branch and not sequence.num_pending:
                self.branches.stop(sequence)
            if sequence.siblings and not sequence.num_pending:
                beginning += self._begin_siblings(sequence)
        schedule.update(dict.fromkeys(beginning, 0))

    def _begin_siblings(self, sequence: Sequence) -> list[Sequence]:
        """The siblings, now running, in the slots that were kept for them."""
        siblings, sequence.siblings = sequence.siblings, []
        for sibling in siblings:
            sequence.begin(sibling)
            self.pool.share(sibling.block_ids)
            self._by_id[sibling.spec.id] = sibling
            self._running[sibling] = None
        return siblings

    def _admit(self, plan: Plan) -> None:
        """Start waiting sequences, as it is their turn, while rows and blocks are free."""
        admitted: list[Sequence] = []
        slots = self._max_num_seqs - self.num_running
        holders = (*self._running, *self.branches.going)
        for sequence in self._waiting.in_turn(lambda: slots_of_tenants(holders)):
            if plan.budget <= 0 or not slots:
                break
            if sequence in self._paused or not plan.budget_for(sequence):
                continue
            if sequence.num_slots > slots:
                break
            hit = self.cache.take(sequence)
            rows = sequence.next_rows(plan.budget_for(sequence))
            if not rows or not self._allocate(sequence, rows, plan):
                self.cache.cut(sequence, 0)
                break
            (self.branches.going if sequence.spec.branch else self._running)[sequence] = None
            admitted.append(sequence)
            slots -= sequence.num_slots
            plan.add(sequence, rows)
            self.hit_tokens += hit
            if self.cache.enabled:
                self.lookup_tokens += sequence.num_prompt
        for sequence in admitted:
            self._waiting.remove(sequence)

    def _share_slots(self, plan: Plan) -> None:
        """Let every tenant run something; what others give up for it is computed again later."""
        for head in self._waiting.heads():
            if head in self._paused or plan.budget_for(head) <= 0:
                continue
            if not may_ask(head, self._running, self.branches.going, self._max_num_seqs):
                continue
            while not self._has_room(head) and (given := to_give_up(self._running)) is not None:
                self._preempt(given)
                plan.drop(given)

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether there are slots for a waiting sequence, and blocks for its first rows."""
        blocks = self.pool.blocks_for(min(sequence.num_tokens, PREFILL_GRID))
        free = self.pool.num_free + self.cache.num_idle
        return self.num_running + sequence.num_slots <= self._max_num_seqs and blocks <= free

    def _take_blocks(self, sequence: Sequence, rows: int, plan: Plan) -> bool:
        """Grow the block table for ``rows`` more positions, preempting branches, then the young."""
        while not self._allocate(sequence, rows, plan):
            youngest = next(reversed(self.branches.going or self._running))
            self._preempt(youngest)
            plan.drop(youngest)
            if youngest is sequence:
                return False
        return True

    def _allocate(self, sequence: Sequence, rows: int, plan: Plan) -> bool:
        """Grow the block table for ``rows`` more positions, if memory nobody needs now suffices."""
        end = sequence.num_computed + rows
        shared = sequence.is_forked and self.pool.is_shared(
            sequence.block_ids, sequence.num_computed
        )
        if end <= len(sequence.block_ids) * self.pool.block_size and not shared:
            return True
        wanted = self.pool.blocks_for(end) - len(sequence.block_ids) + shared
        while (missing := wanted - self.pool.num_free) > self.cache.num_idle:
            if not self.branches.reclaim():
                return False
            self.preemptions += 1
        self.cache.evict(missing)
        fresh = self.pool.allocate(wanted)
        if shared:
            plan.block_copies[sequence] = self.pool.replace(
                sequence.block_ids, sequence.num_computed, fresh.pop()
            )
        sequence.block_ids += fresh
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        sequence.num_preempted += 1
        if sequence.spec.branch:
            self.branches.preempt(sequence)
            return
        del self._running[sequence]
        self.cache.cut(sequence, 0)
        for view in sequence.views:
            view.forget()
        self._waiting.add(sequence, first=True)

    def _has_slot(self, sequence: Sequence) -> bool:
        return sequence in self._running or sequence in self.branches.going

    def check_integrity(self) -> None:
        """Prove that no block leaked and that counters agree.

        Raises:
            AssertionError: they do not; see :meth:`PrefixCache.check_integrity`.
        """
        branches = self.branches
        self.cache.check_integrity((*self._running, *branches.going, *branches.resting))
        self._waiting.check_integrity()
