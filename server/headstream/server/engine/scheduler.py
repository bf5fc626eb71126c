"""Decides what the next step computes: {sequence: rows} under one token budget, without phases."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from headstream.model.batch import PREFILL_GRID
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.branches import Branches
from headstream.server.engine.holders import Holders
from headstream.server.engine.line import Line
from headstream.server.engine.plan import Plan, Schedule, step_budget
from headstream.server.engine.prefix_cache import PrefixCache
from headstream.server.engine.priority import Priority
from headstream.server.engine.sequence import Sequence
from headstream.server.engine.shares import slots_of_tenants
from headstream.server.engine.waiting import Waiting

_APPENDED_ROWS = 256  # of all branches in one step, whose logits are in memory together


class Scheduler:
    """Owns the sequences and their block ids.

    When memory is out the youngest of the least urgent is preempted: its blocks are freed and it
    waits, first in line, to be computed again.
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
        self.lookup_tokens = 0  # prompt tokens of the sequences that were started
        self.hit_tokens = 0  # those that the cache had
        self._budget = max_num_batched_tokens
        self._max_num_seqs = max_num_seqs
        self._waiting = Waiting()
        self._holders = Holders(pool, self.cache, self.branches, self._waiting, max_num_seqs)
        self._paused: set[Sequence] = set()  # of both
        self._by_id: dict[int, Sequence] = {}
        self._step = 0

    @property
    def num_running(self) -> int:
        """Sequences that have a slot, or have one kept for them."""
        return self._holders.num_slots

    @property
    def preemptions(self) -> int:
        """Sequences that lost what they held, since the start."""
        return self._holders.preemptions

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for their first step, or to go on."""
        return len(self._waiting) + len(self.branches.line)

    def num_waiting_of(self, priority: Priority) -> int:
        """Of one priority, those that wait for their first step."""
        return self._waiting.count(priority)

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
        places = (self._holders, self._waiting, self.branches.line)
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

    def charge(self, sequence: Sequence, num_bytes: int) -> None:
        """Count what was told of a sequence; it is passed over once its credit is used up."""
        sequence.told_bytes += num_bytes
        if sequence.told_bytes >= sequence.credit_bytes:
            self.pause(sequence, paused=True)

    def give_credit(self, sequence: Sequence, credit_bytes: int) -> None:
        """Let a sequence go on until it has told so many bytes in all."""
        sequence.credit_bytes = credit_bytes
        self.pause(sequence, paused=sequence.told_bytes >= credit_bytes)

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
        if sequence in self._holders.running:
            del self._holders.running[sequence]
            self.cache.release(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            self.branches.remove(sequence)

    def schedule(self) -> Schedule:
        """Choose the rows of the next step and take the blocks they need.

        Sequences with one token behind come first, so that a long prompt never stalls them; then
        what was appended to branches; then, for one priority after the other, prompts under way, in
        order of arrival, and new ones.
        """
        holders = self._holders
        self.branches.start(holders.free_slots, self._paused)
        ready, appended, behind = self._sort_holders()
        prompts = sum(map(len, behind.values())) + len(self._waiting)
        plan = Plan(
            step_budget(self._budget, self._max_num_seqs, ready=len(ready), prompts=prompts)
        )
        for sequence in ready:
            if sequence in holders and holders.take_blocks(sequence, 1, plan):
                plan.add(sequence, 1)
        left = min(_APPENDED_ROWS, plan.budget - PREFILL_GRID)
        for sequence in appended:
            rows = sequence.next_rows(left)
            if rows and sequence in holders and holders.take_blocks(sequence, rows, plan):
                plan.add(sequence, rows)
                left -= rows
        served: list[Sequence] = []
        may_start = True
        for priority, line in self._waiting.lines():
            served += self._read_on(behind[priority], plan)
            if may_start:
                holders.share_slots(line.heads(self._paused), plan)
                started, may_start = self._admit(line, plan)
                served += started
        under_way = [each for each in chain(*behind.values()) if each in holders]
        if plan.rows:
            self._step += 1
            self._waiting.note_step(under_way, served, self._paused)
        self.block_copies = tuple(plan.block_copies.values())
        return plan.rows

    def _sort_holders(
        self,
    ) -> tuple[list[Sequence], list[Sequence], dict[Priority, list[Sequence]]]:
        """Who has one token behind, branches with more of them, and prompts under way."""
        ready: list[Sequence] = []
        appended: list[Sequence] = []
        behind: dict[Priority, list[Sequence]] = {priority: [] for priority in Priority}
        for sequence in self._holders:
            if sequence in self._paused:
                continue
            if sequence.num_pending == 1:
                ready.append(sequence)
            elif sequence.is_appending:
                appended.append(sequence)
            elif sequence.num_pending:  # otherwise its rows are computed, and read now
                behind[sequence.priority].append(sequence)
        return ready, appended, behind

    def _read_on(self, prompts: Iterable[Sequence], plan: Plan) -> list[Sequence]:
        """Go on with prompts under way; those that got rows are returned."""
        read: list[Sequence] = []
        for sequence in prompts:
            if sequence not in self._holders:  # preempted just now
                continue
            self.hit_tokens += self.cache.take(sequence)  # others may have come further by now
            rows = sequence.next_rows(plan.budget_for(sequence))
            if rows and self._holders.take_blocks(sequence, rows, plan):
                plan.add(sequence, rows)
                read.append(sequence)
        return read

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
            self._holders.running[sibling] = None
        return siblings

    def _admit(self, line: Line, plan: Plan) -> tuple[list[Sequence], bool]:
        """Start those of one priority, as it is their turn, while rows and room are left.

        Returns:
            Those who started; and whether others may: not while somebody lacks the room.
        """
        admitted: list[Sequence] = []
        lacks_room = False
        holders = list(self._holders)
        for sequence in line.in_turn(lambda: slots_of_tenants(holders)):
            if plan.budget <= 0:
                break
            if sequence in self._paused or not plan.budget_for(sequence):
                continue
            self._holders.displace(sequence, plan, self._step)
            if sequence.num_slots > self._holders.free_slots:
                lacks_room = True
                if sequence.displaces_nobody:  # which keeps nobody behind it from displacing
                    continue
                break
            hit = self.cache.take(sequence)
            rows = sequence.next_rows(plan.budget_for(sequence))
            if not rows or not self._holders.allocate(sequence, rows, plan):
                lacks_room = True
                self.cache.cut(sequence, 0)
                break
            self._holders.start(sequence, self._step)
            admitted.append(sequence)
            plan.add(sequence, rows)
            self.hit_tokens += hit
            if self.cache.enabled:
                self.lookup_tokens += sequence.num_prompt
        for sequence in admitted:
            line.remove(sequence)
        return admitted, not lacks_room

    def check_integrity(self) -> None:
        """Prove that no block leaked and that counters agree.

        Raises:
            AssertionError: they do not; see :meth:`PrefixCache.check_integrity`.
        """
        branches = self.branches
        self.cache.check_integrity((*self._holders, *branches.resting))
        self._waiting.check_integrity()
