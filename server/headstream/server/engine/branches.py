"""The branches of decoding sessions: sequences that stay when they have nothing to compute."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Container, Iterable

import msgspec

from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.credit import CREDIT_BYTES
from headstream.server.engine.prefix_cache import PrefixCache
from headstream.server.engine.sequence import Sequence


class Branches:
    """Where each branch stands, once its first step is scheduled.

    It is ``going`` while it has a slot of the step and tokens to compute. With new tokens it waits
    in ``line`` for a slot. Without a slot it is ``resting`` as long as it holds blocks. Sessions
    have the lower claim on memory: blocks of resting branches are free for the taking, and what
    they held is computed again with the next tokens.

    A block that several branches hold is copied before one of them writes to it. Only the block
    that a branch goes on writing in can be shared so: all others are full, or not there yet.
    """

    def __init__(self, pool: BlockPool, cache: PrefixCache, max_going: int) -> None:
        """``max_going``: branches that may have a slot before the waiting sequences are asked."""
        self._pool = pool
        self._cache = cache
        self._max_going = max_going
        # Ordered sets.
        self.going: dict[Sequence, None] = {}  # in order of their start
        self.line: OrderedDict[Sequence, None] = OrderedDict()  # first come first
        self.resting: dict[Sequence, None] = {}  # longest at rest first

    def append(self, branch: Sequence, token_ids: Iterable[int]) -> None:
        """New tokens, whose rows are all wanted."""
        branch.token_ids.extend(token_ids)
        self.line[branch] = None

    def fork(self, branch: Sequence, new_id: int) -> Sequence:
        """A copy that holds the same blocks."""
        branch.is_forked = True
        twin = copy.copy(branch)
        twin.spec = msgspec.structs.replace(branch.spec, id=new_id)
        twin.token_ids, twin.block_ids = branch.token_ids[:], branch.block_ids[:]
        twin.told_bytes, twin.credit_bytes = 0, CREDIT_BYTES  # it has a reader of its own
        self._pool.share(twin.block_ids)
        self._rest(twin)
        return twin

    def rollback(self, branch: Sequence, length: int, *, row: bool) -> None:
        """Keep the first ``length`` tokens; ``row``: the row of the last of them is wanted.

        What is computed anew inside the prompt is computed from the grid on, so that the prompt
        that is left has the bits of a prompt of this length.
        """
        kept = min(branch.num_computed, length - row)
        if kept < branch.num_prompt:
            kept -= kept % self._cache.chunk_size
        self._cache.cut(branch, kept)
        del branch.token_ids[length:]
        branch.num_prompt = min(branch.num_prompt, length)
        branch.chunk_keys = branch.chunk_keys[: branch.num_prompt // self._cache.chunk_size]
        branch.num_reported = min(branch.num_reported, length)
        branch.num_answered = length - row
        self._rest(branch)
        if row:
            self.line[branch] = None

    def start(self, slots: int, paused: Container[Sequence]) -> None:
        """Give the first of the line their slots, at most ``slots``."""
        slots = min(slots, self._max_going - len(self.going))
        for branch in [branch for branch in self.line if branch not in paused][: max(0, slots)]:
            del self.line[branch]
            self.resting.pop(branch, None)
            self.going[branch] = None

    def stop(self, branch: Sequence) -> None:
        """All its tokens are computed."""
        del self.going[branch]
        self._rest(branch)

    def preempt(self, branch: Sequence) -> None:
        """Take slot and blocks away; it is first in line, to be computed again."""
        del self.going[branch]
        self._cache.cut(branch, 0)
        self.line[branch] = None
        self.line.move_to_end(branch, last=False)

    def reclaim(self) -> bool:
        """Take the blocks of the branch that rests longest; False: nobody rests."""
        branch = next(iter(self.resting), None)
        if branch is None:
            return False
        del self.resting[branch]
        self._cache.cut(branch, 0)
        return True

    def remove(self, branch: Sequence) -> None:
        """Forget a branch and free what it holds."""
        for places in (self.going, self.line, self.resting):
            places.pop(branch, None)
        self._cache.release(branch)

    def _rest(self, branch: Sequence) -> None:
        """It is at rest if it holds blocks."""
        self.resting.pop(branch, None)
        if branch.block_ids:
            self.resting[branch] = None
