"""Who may wait: the requests and tokens in front of one engine are bounded.

Under overload a bounded queue serves at full capacity, while an unbounded one works only for
callers whose deadlines have passed. The rest is refused at once. A request that finds nobody
waiting is always let in, however large.

Bulk streams wait for their turn instead, and take half of the queue at most: the other half stays
for those who would be refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager

from headstream.server.errors import QueueFull


class Ticket:
    """One sequence's place in the queue, until its first result."""

    def __init__(self, queue: Admission) -> None:
        self._queue = queue
        self._waiting = True
        self._tokens = 0

    def charge(self, num_tokens: int) -> None:
        """Count the tokens it brings."""
        self._tokens += num_tokens
        self._queue.tokens += num_tokens

    def release(self) -> None:
        """It waits no more; a second call does nothing."""
        if self._waiting:
            self._waiting = False
            self._queue.requests -= 1
            self._queue.tokens -= self._tokens
            self._queue.let_in()


class Admission:
    """The queue in front of one engine."""

    def __init__(self, max_requests: int, max_tokens: int, retry_after_s: float) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.requests = 0
        self.tokens = 0
        self._retry_after_s = retry_after_s
        self._outside: deque[tuple[asyncio.Future[Ticket], int]] = deque()  # and their tokens

    @contextmanager
    def enter(self, num_sequences: int = 1) -> Generator[list[Ticket]]:
        """Places for the sequences of one request, before anything is tokenized.

        Raises:
            QueueFull: There are not so many left.
        """
        if self.requests and self.requests + num_sequences > self.max_requests:
            raise self._full("requests", self.requests, self.max_requests)
        self.requests += num_sequences
        tickets = [Ticket(self) for _ in range(num_sequences)]
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
        if self.tokens and self.tokens + sum(num_tokens) > self.max_tokens:
            raise self._full("tokens", self.tokens, self.max_tokens)
        for ticket, count in zip(tickets, num_tokens, strict=True):
            ticket.charge(count)

    @asynccontextmanager
    async def wait(self, num_tokens: int) -> AsyncGenerator[Ticket]:
        """A place for one sequence of a bulk stream, as soon as there is one; in order of arrival.

        The sequence brings so many tokens, which count from then on.
        """
        place: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        self._outside.append((place, num_tokens))
        self.let_in()
        try:
            yield await place
        finally:
            if place.cancelled():
                self.let_in()  # those behind it
            else:
                place.result().release()

    def let_in(self) -> None:
        """Give places to those who wait for them, while there are some."""
        while self._outside:
            place, num_tokens = self._outside[0]
            if not place.done():  # otherwise nobody waits for it any more
                if not self._has_room(num_tokens):
                    return
                self.requests += 1
                ticket = Ticket(self)
                ticket.charge(num_tokens)
                place.set_result(ticket)
            self._outside.popleft()

    def _has_room(self, num_tokens: int) -> bool:
        """Whether a sequence of a bulk stream may enter."""
        return not self.requests or (
            self.requests < self.max_requests // 2
            and self.tokens + num_tokens <= self.max_tokens // 2
        )

    def _full(self, unit: str, waiting: int, limit: int) -> QueueFull:
        message = f"{waiting} {unit} are waiting; the limit is {limit}; try again later"
        return QueueFull(message, self._retry_after_s)
