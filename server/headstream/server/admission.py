"""Who may wait: the requests and tokens in front of one engine are bounded.

Under overload a bounded queue serves at full capacity, while an unbounded one works only for
callers whose deadlines have passed. The rest is refused at once. A request that finds nobody
waiting is always let in, however large. And whose deadline would pass before its turn came, as far
as the pace of the queue tells, is refused too, and not when it has passed.

Tenants share the queue: one with something in it gets no more of it than is left free, so that
there is room for others whenever they come. Alone it gets half; of two that flood, each a third.
What a tenant asks for with one priority does not count where it asks with another.

Batches and bulk streams take half of the queue at most: the other half stays for those who wait for
an answer. A bulk stream is not refused but waits for its turn. So does every window but the first
of a text that is scored in windows; to it the whole queue is open, as to its caller.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from headstream.server.call import Party, current_party, seconds_left
from headstream.server.errors import InvalidRequest, QueueFull, TooLate
from headstream.server.pace import Pace
from headstream.server.room import Room

_USABLE = 2 / 3  # of the time to a deadline may pass in the queue: the rest is for the answer


class Ticket:
    """One sequence's place in the queue, until its first result."""

    def __init__(self, queue: Admission, party: Party) -> None:
        self.party = party
        self._queue = queue
        self._waiting = True
        self.tokens = 0
        queue.add(party, 1, 0)

    def charge(self, num_tokens: int) -> None:
        """Count the tokens it brings."""
        self.tokens += num_tokens
        self._queue.add(self.party, 0, num_tokens)

    def release(self) -> None:
        """Its first result is there: it waits no more; a second call does nothing."""
        if self._waiting:
            self._queue.pace.note(self.tokens)
        self.give_up()

    def give_up(self) -> None:
        """It waits no more, whatever has become of it; a second call does nothing."""
        if self._waiting:
            self._waiting = False
            self._queue.add(self.party, -1, -self.tokens)
            self._queue.let_in()


class _Line(NamedTuple):
    """Who waits for places side by side: one after the other."""

    party: Party
    bulk: bool


@dataclass(slots=True)
class _Outside:
    """A sequence that waits for a place instead of being refused."""

    line: _Line
    num_tokens: int
    place: asyncio.Future[Ticket] = field(default_factory=asyncio.Future[Ticket])


class Admission:
    """The queue in front of one engine."""

    def __init__(self, max_requests: int, max_tokens: int, retry_after_s: float) -> None:
        self.request_room = Room("requests", max_requests)
        self.token_room = Room("tokens", max_tokens)
        self._retry_after_s = retry_after_s
        self.pace = Pace()
        self._outside: dict[_Line, deque[_Outside]] = {}

    @property
    def requests(self) -> int:
        """Sequences that wait."""
        return self.request_room.held

    @property
    def tokens(self) -> int:
        """Their tokens."""
        return self.token_room.held

    def add(self, party: Party, requests: int, tokens: int) -> None:
        """So many more of a party wait; negative: fewer."""
        if not self.requests:
            self.pace.begin()
        self.request_room.add(party, requests)
        self.token_room.add(party, tokens)

    @contextmanager
    def enter(
        self, num_sequences: int = 1, own: Sequence[Ticket] = (), *, least_tokens: int = 0
    ) -> Generator[list[Ticket]]:
        """Places for the sequences of one request, before anything is tokenized.

        ``own``: places that it has already; they do not come before these. ``least_tokens``: that
        it is known to bring, so that who would be refused for them is so at once.

        Raises:
            QueueFull: There are not so many left, for its tenant and priority.
            TooLate: Its turn would come too late.
        """
        party = current_party()
        self._check(self.request_room, party, num_sequences)
        self._check(self.token_room, party, least_tokens)
        self._check_deadline(party, own_tokens=sum(ticket.tokens for ticket in own))
        tickets = [Ticket(self, party) for _ in range(num_sequences)]
        try:
            yield tickets
        finally:
            for ticket in tickets:
                ticket.give_up()

    def charge(self, tickets: Sequence[Ticket], num_tokens: Sequence[int]) -> None:
        """Count the tokens of one request, once they are known.

        Raises:
            QueueFull: Too many tokens wait already.
        """
        if tickets:
            self._check(self.token_room, tickets[0].party, sum(num_tokens))
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
        party, tokens = own[0].party, sum(ticket.tokens for ticket in own)
        problem = self.request_room.lasting_problem(party, len(own), num_sequences)
        problem = problem or self.token_room.lasting_problem(party, tokens, num_tokens)
        if problem:
            raise InvalidRequest(field, problem)

    @asynccontextmanager
    async def wait(self, num_tokens: int, *, bulk: bool) -> AsyncGenerator[Ticket]:
        """A place for one sequence of a bulk stream, or one window, as soon as there is one.

        In order of arrival; among tenants and priorities, it is the turn of who has fewest places.
        The sequence brings so many tokens, which count from then on. ``bulk``: half of the queue
        is not for it.
        """
        outside = _Outside(_Line(current_party(), bulk), num_tokens)
        self._outside.setdefault(outside.line, deque()).append(outside)
        self.let_in()
        try:
            yield await outside.place
        finally:
            if outside.place.cancelled():
                self.let_in()  # those behind it
            else:
                outside.place.result().give_up()

    def let_in(self) -> None:
        """Give places to those who wait for them, while there are some."""
        for bulk in (False, True):
            while lines := [line for line in self._outside if line.bulk is bulk]:
                # Of those who have as few, the first of them who came to an empty line.
                line = min(lines, key=lambda each: self.request_room.of(each.party))
                outside = self._outside[line]
                if not outside[0].place.done():  # otherwise nobody waits for it any more
                    if not self._has_room(outside[0]):
                        break
                    ticket = Ticket(self, line.party)
                    ticket.charge(outside[0].num_tokens)
                    outside[0].place.set_result(ticket)
                outside.popleft()
                if not outside:
                    del self._outside[line]

    def _has_room(self, outside: _Outside) -> bool:
        """Whether a sequence that waits outside may enter."""
        (party, bulk), num_tokens = outside.line, outside.num_tokens
        if not bulk:
            problem = self.request_room.problem(party, 1)
            return not (problem or self.token_room.problem(party, num_tokens))
        return not self.requests or (
            self.requests < self.request_room.half
            and self.tokens + num_tokens <= self.token_room.half
        )

    def _check_deadline(self, party: Party, *, own_tokens: int) -> None:
        left = seconds_left()
        ahead = max(0, self.token_room.ahead_of(party) - own_tokens)
        wait = self.pace.seconds_for(ahead)
        if wait > left * _USABLE:
            # By then the queue will be short enough for as long a deadline.
            pause = max(self._retry_after_s, wait - left * _USABLE)
            raise TooLate(wait, left, pause)

    def _check(self, room: Room, party: Party, count: int) -> None:
        if problem := room.problem(party, count):
            raise QueueFull(f"{problem}; try again later", self._retry_after_s)
