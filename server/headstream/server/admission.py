"""Who may wait: the requests and tokens in front of one engine are bounded.

Under overload a bounded queue serves at full capacity, while an unbounded one works only for
callers whose deadlines have passed. The rest is refused at once. A request that finds nobody
waiting is always let in, however large.

Tenants share the queue: one with something in it gets no more of it than is left free, so that
there is room for others whenever they come. Alone it gets half; of two that flood, each a third.

Bulk streams wait for their turn instead, and take half of the queue at most: the other half stays
for those who would be refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from headstream.server.call import current_tenant
from headstream.server.errors import InvalidRequest, QueueFull


class Ticket:
    """One sequence's place in the queue, until its first result."""

    def __init__(self, queue: Admission, tenant: str) -> None:
        self.tenant = tenant
        self._queue = queue
        self._waiting = True
        self.tokens = 0
        queue.request_room.add(tenant, 1)

    def charge(self, num_tokens: int) -> None:
        """Count the tokens it brings."""
        self.tokens += num_tokens
        self._queue.token_room.add(self.tenant, num_tokens)

    def release(self) -> None:
        """It waits no more; a second call does nothing."""
        if self._waiting:
            self._waiting = False
            self._queue.request_room.add(self.tenant, -1)
            self._queue.token_room.add(self.tenant, -self.tokens)
            self._queue.let_in()


class Room:
    """A bounded number of something, and who holds how many."""

    def __init__(self, unit: str, limit: int) -> None:
        self.unit = unit
        self.limit = limit
        self.held = 0
        self._by_tenant: Counter[str] = Counter()

    def add(self, tenant: str, count: int) -> None:
        """Hold so many more; negative: fewer."""
        self.held += count
        self._by_tenant[tenant] += count
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]

    def of(self, tenant: str) -> int:
        """How many it holds."""
        return self._by_tenant[tenant]

    def problem(self, tenant: str, count: int) -> str:
        """Why a tenant cannot hold so many more; empty: it can."""
        if self.held and self.held + count > self.limit:
            return f"{self.held} {self.unit} are waiting; the limit is {self.limit}"
        mine, free = self.of(tenant), self.limit - self.held
        if tenant and mine and mine + count > free:
            return f"{mine} {self.unit} of this token are waiting, and room for {free} is left"
        return ""

    def lasting_problem(self, tenant: str, mine: int, count: int) -> str:
        """Why it could not hold so many more even if nobody else held any; empty: it could."""
        most = max(0, self.limit - mine * (2 if tenant else 1))
        if not mine or count <= most:
            return ""
        return (
            f"bring {count} {self.unit}; beside the {mine} of the request itself, {most} fit into "
            f"max_queued_{self.unit}, which is {self.limit}"
        )


@dataclass(slots=True)
class _Outside:
    """A sequence of a bulk stream that waits for a place."""

    tenant: str
    num_tokens: int
    place: asyncio.Future[Ticket] = field(default_factory=asyncio.Future[Ticket])


class Admission:
    """The queue in front of one engine."""

    def __init__(self, max_requests: int, max_tokens: int, retry_after_s: float) -> None:
        self.request_room = Room("requests", max_requests)
        self.token_room = Room("tokens", max_tokens)
        self._retry_after_s = retry_after_s
        self._outside: dict[str, deque[_Outside]] = {}  # by tenant

    @property
    def requests(self) -> int:
        """Sequences that wait."""
        return self.request_room.held

    @property
    def tokens(self) -> int:
        """Their tokens."""
        return self.token_room.held

    @contextmanager
    def enter(self, num_sequences: int = 1) -> Generator[list[Ticket]]:
        """Places for the sequences of one request, before anything is tokenized.

        Raises:
            QueueFull: There are not so many left, for its tenant.
        """
        tenant = current_tenant()
        self._check(self.request_room, tenant, num_sequences)
        tickets = [Ticket(self, tenant) for _ in range(num_sequences)]
        try:
            yield tickets
        finally:
            for ticket in tickets:
                ticket.release()

    def charge(self, tickets: Sequence[Ticket], num_tokens: Sequence[int]) -> None:
        """Count the tokens of one request, once they are known.

        Raises:
            QueueFull: Too many tokens wait already.
        """
        if tickets:
            self._check(self.token_room, tickets[0].tenant, sum(num_tokens))
        for ticket, count in zip(tickets, num_tokens, strict=True):
            ticket.charge(count)

    def check_beside(
        self, field: str, own: Sequence[Ticket], num_sequences: int, num_tokens: int
    ) -> None:
        """Refuse what a request adds to its own places if it could never wait beside them.

        Raises:
            InvalidRequest: It is too much.
        """
        if not own:
            return
        tenant, tokens = own[0].tenant, sum(ticket.tokens for ticket in own)
        problem = self.request_room.lasting_problem(tenant, len(own), num_sequences)
        problem = problem or self.token_room.lasting_problem(tenant, tokens, num_tokens)
        if problem:
            raise InvalidRequest(field, problem)

    @asynccontextmanager
    async def wait(self, num_tokens: int) -> AsyncGenerator[Ticket]:
        """A place for one sequence of a bulk stream, as soon as there is one.

        In order of arrival; among tenants, it is the turn of who has fewest places. The sequence
        brings so many tokens, which count from then on.
        """
        outside = _Outside(current_tenant(), num_tokens)
        self._outside.setdefault(outside.tenant, deque()).append(outside)
        self.let_in()
        try:
            yield await outside.place
        finally:
            if outside.place.cancelled():
                self.let_in()  # those behind it
            else:
                outside.place.result().release()

    def let_in(self) -> None:
        """Give places to those who wait for them, while there are some."""
        while self._outside:
            # Of those who have as few, the first of them who came to an empty line.
            tenant = min(self._outside, key=self.request_room.of)
            line = self._outside[tenant]
            first = line[0]
            if not first.place.done():  # otherwise nobody waits for it any more
                if not self._has_room(first.num_tokens):
                    return
                ticket = Ticket(self, tenant)
                ticket.charge(first.num_tokens)
                first.place.set_result(ticket)
            line.popleft()
            if not line:
                del self._outside[tenant]

    def _has_room(self, num_tokens: int) -> bool:
        """Whether a sequence of a bulk stream may enter."""
        return not self.requests or (
            self.requests < self.request_room.limit // 2
            and self.tokens + num_tokens <= self.token_room.limit // 2
        )

    def _check(self, room: Room, tenant: str, count: int) -> None:
        if problem := room.problem(tenant, count):
            raise QueueFull(f"{problem}; try again later", self._retry_after_s)
