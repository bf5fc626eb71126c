"""Sequences that wait for their first step: a line for each tenant, and whose turn it is."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice

from headstream.server.engine.sequence import Sequence


class Line:
    """Within a tenant who came first is first. Among tenants it is the turn of who holds least."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self._tenants: dict[str, OrderedDict[Sequence, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._tenants.values()))

    def __iter__(self) -> Iterator[Sequence]:
        for tenant in self._tenants.values():
            yield from tenant

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._tenants.get(sequence.spec.tenant, ())

    def add(self, sequence: Sequence, *, first: bool = False) -> None:
        """Put it at the end of its tenant's line, or before all others there."""
        tenant = self._tenants.setdefault(sequence.spec.tenant, OrderedDict())
        tenant[sequence] = None
        tenant.move_to_end(sequence, last=not first)
        self.num_tokens += sequence.num_tokens

    def remove(self, sequence: Sequence) -> None:
        """It waits no more."""
        name = sequence.spec.tenant
        del self._tenants[name][sequence]
        if not self._tenants[name]:
            del self._tenants[name]
        self.num_tokens -= sequence.num_tokens

    def heads(self, paused: Collection[Sequence]) -> list[Sequence]:
        """The first of each tenant that is not ``paused``."""
        lines = self._tenants.values()
        willing = ((each for each in line if each not in paused) for line in lines)
        return [head for line in willing for head in islice(line, 1)]

    def in_turn(self, held: Callable[[], Mapping[str, int]]) -> Iterator[Sequence]:
        """All that are there now, as they are to start; meanwhile others may be added.

        Args:
            held: Counts the slots that each tenant has, if that matters.
        """
        if len(self._tenants) < 2:
            yield from list(self)
            return
        lines = {name: iter(list(tenant)) for name, tenant in self._tenants.items()}
        # Who holds as much as another goes first if its line is older.
        slots_of = held()
        turns = [(slots_of.get(name, 0), number, name) for number, name in enumerate(lines)]
        heapq.heapify(turns)
        while turns:
            slots, number, name = turns[0]
            sequence = next(lines[name], None)
            if sequence is None:
                heapq.heappop(turns)
                continue
            heapq.heapreplace(turns, (slots + sequence.num_slots, number, name))
            yield sequence

    def check_integrity(self) -> None:
        """Prove that who waits holds nothing, and that the tokens are counted.

        Raises:
            AssertionError: It is not so.
        """
        if any(sequence.block_ids for sequence in self):
            raise AssertionError("a waiting sequence holds blocks")
        if self.num_tokens != sum(sequence.num_tokens for sequence in self):
            raise AssertionError("the waiting tokens are miscounted")
