"""A bounded number of places, and who holds how many."""

from __future__ import annotations

from collections import Counter

from headstream.server.call import Party
from headstream.server.engine.priority import Priority


class Room:
    """Places for requests, or for tokens."""

    def __init__(self, unit: str, limit: int) -> None:
        self.unit = unit
        self.limit = limit
        self.held = 0
        self._by_party: Counter[Party] = Counter()

    def add(self, party: Party, count: int) -> None:
        """Hold so many more; negative: fewer."""
        self.held += count
        self._by_party[party] += count
        if not self._by_party[party]:
            del self._by_party[party]

    def of(self, party: Party) -> int:
        """How many it holds."""
        return self._by_party[party]

    @property
    def half(self) -> int:
        """What batches and bulk streams may fill; the rest is for those who wait for an answer."""
        return self.limit // 2

    def problem(self, party: Party, count: int) -> str:
        """Why a party cannot hold so many more; empty: it can, as anybody can hold none more."""
        if not count:
            return ""
        limit = self._limit_of(party)
        if self.held and self.held + count > limit:
            whose = " of a batch" if limit < self.limit else ""
            return f"{self.held} {self.unit} are waiting; the limit{whose} is {limit}"
        mine, free = self.of(party), self.limit - self.held
        if party.tenant and mine and mine + count > free:
            return f"{mine} {self.unit} of this token are waiting, and room for {free} is left"
        return ""

    def lasting_problem(self, party: Party, mine: int, count: int) -> str:
        """Why it could not hold so many more even if nobody else held any; empty: it could."""
        limit = self._limit_of(party)
        shared = self.limit - mine * 2 if party.tenant else limit
        most = max(0, min(limit - mine, shared))
        if not mine or count <= most:
            return ""
        return (
            f"bring {count} {self.unit}; beside the {mine} of the request itself, {most} fit into "
            f"max_queued_{self.unit}, which is {self.limit}"
        )

    def _limit_of(self, party: Party) -> int:
        return self.half if party.priority is Priority.BATCH else self.limit

    def ahead_of(self, party: Party) -> int:
        """About how many are served before what a party adds now.

        All that is more urgent; and what is as urgent of its own, once for each tenant that has
        some, as these take turns.
        """
        ahead = alike = tenants = 0
        for other, count in self._by_party.items():
            if other.priority > party.priority:
                ahead += count
            elif other.priority == party.priority:
                alike += count
                tenants += 1
        return ahead + min(alike, self.of(party) * tenants)
