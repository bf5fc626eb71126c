from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from headstream.server.admission import Admission, Ticket
from headstream.server.call import Call, current_party, enter_call
from headstream.server.engine.priority import Priority
from headstream.server.errors import InvalidRequest, QueueFull, TooLate


def make(max_requests: int = 2, max_tokens: int = 10) -> Admission:
    return Admission(max_requests, max_tokens, retry_after_s=1.0)


def test_requests_at_the_limit_and_beyond() -> None:
    queue = make()
    with queue.enter(), queue.enter():
        with (
            pytest.raises(QueueFull, match="2 requests are waiting; the limit is 2"),
            queue.enter(),
        ):
            pass
        assert queue.requests == 2
    assert queue.requests == 0


def test_tokens_at_the_limit_and_beyond() -> None:
    queue = make()
    with queue.enter() as first, queue.enter() as second:
        queue.charge(first, [4])
        with pytest.raises(QueueFull, match="4 tokens are waiting; the limit is 10"):
            queue.charge(second, [7])
        queue.charge(second, [6])
        assert queue.tokens == 10
    assert queue.tokens == 0


def test_who_has_started_waits_no_more() -> None:
    queue = make(max_requests=1)
    with queue.enter() as [ticket]:
        queue.charge([ticket], [9])
        ticket.release()
        ticket.release()
        assert (queue.requests, queue.tokens) == (0, 0)
        with queue.enter():
            assert queue.requests == 1
    assert (queue.requests, queue.tokens) == (0, 0)


def test_an_empty_queue_takes_any_request() -> None:
    queue = make()
    with queue.enter(64) as tickets:
        queue.charge(tickets, [100] * 64)
        assert queue.tokens == 6400
    assert (queue.requests, queue.tokens) == (0, 0)


def test_a_failed_request_leaves_nothing_behind() -> None:
    queue = make()

    def fail() -> None:
        with queue.enter() as tickets:
            queue.charge(tickets, [3])
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert (queue.requests, queue.tokens) == (0, 0)


def lets_in(queue: Admission, num_sequences: int, num_tokens: int) -> bool:
    with suppress(QueueFull), queue.enter(num_sequences) as tickets:
        queue.charge(tickets[:1], [num_tokens])
        return True
    return False


@pytest.mark.parametrize("name", ["", "a"])
@pytest.mark.parametrize("mine", [1, 4, 5, 6, 12])
@pytest.mark.parametrize("unit", ["requests", "tokens"])
def test_what_could_never_wait_beside_its_own_request(unit: str, mine: int, name: str) -> None:
    """Exactly what an otherwise empty queue refuses."""
    of_tokens, refused = unit == "tokens", 0
    for count in range(1, 12):
        queue = make(max_requests=100 if of_tokens else 10)
        more = (1, count) if of_tokens else (count, 1)
        with tenant(name), queue.enter(1 if of_tokens else mine) as own:
            queue.charge(own[:1], [mine if of_tokens else 1])
            if lets_in(queue, *more):
                queue.check_beside("field", own, *more)
                continue
            refused += 1
            with pytest.raises(InvalidRequest, match=f"^field: bring {count} .* max_queued_{unit}"):
                queue.check_beside("field", own, *more)
    assert refused


def test_what_brings_no_tokens_yet_is_not_refused_for_those_of_its_request() -> None:
    queue = make(max_tokens=16)
    with queue.enter() as own:
        queue.charge(own, [17])
        with queue.enter(1, own):
            assert queue.requests == 2
        with pytest.raises(QueueFull), queue.enter(1, own, least_tokens=1):
            pass


async def enter(
    queue: Admission, num_tokens: int, entered: list[int], leave: asyncio.Event
) -> None:
    async with queue.wait(num_tokens, bulk=True):
        entered.append(num_tokens)
        await leave.wait()


async def test_bulk_streams_take_half_of_the_queue_and_wait_in_order() -> None:
    queue, entered, leave = make(max_requests=4, max_tokens=20), list[int](), asyncio.Event()
    tasks = [asyncio.create_task(enter(queue, n, entered, leave)) for n in (6, 7, 1, 3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert entered == [6], "7 more would be 13 of 10; who comes later does not overtake"
    tasks[1].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (entered, queue.requests, queue.tokens) == ([6, 1], 2, 7), "3 would be a third request"
    with queue.enter(2) as tickets:
        queue.charge(tickets, [6, 7])
        assert queue.tokens == 20
        leave.set()
        await asyncio.sleep(0.01)
        assert entered == [6, 1], "others have taken half"
    await asyncio.gather(*tasks, return_exceptions=True)
    assert entered == [6, 1, 3]
    assert (queue.requests, queue.tokens, len(queue._outside)) == (0, 0, 0)


async def test_who_finds_nobody_is_let_in_however_large() -> None:
    queue = make(max_requests=1)
    async with queue.wait(1000, bulk=True):
        assert (queue.requests, queue.tokens) == (1, 1000)
    assert (queue.requests, queue.tokens) == (0, 0)


async def test_a_place_given_to_who_is_cancelled_meanwhile_is_free_again() -> None:
    queue, entered = make(), list[int]()
    async with queue.wait(1, bulk=True):
        task = asyncio.create_task(enter(queue, 2, entered, asyncio.Event()))
        await asyncio.sleep(0)
    assert queue.tokens == 2
    task.cancel()  # before it has run
    await asyncio.gather(task, return_exceptions=True)
    assert (entered, queue.requests, queue.tokens) == ([], 0, 0)


@contextmanager
def tenant(name: str, priority: Priority = Priority.NORMAL) -> Generator[None]:
    """As if a call of this tenant were served."""
    before = current_party()
    enter_call(Call("method", "id", streaming=False, tenant=name, priority=priority))
    try:
        yield
    finally:
        enter_call(Call("method", "id", False, tenant=before.tenant, priority=before.priority))


def enter_all(
    stack: ExitStack,
    queue: Admission,
    name: str,
    tokens: int = 0,
    priority: Priority = Priority.NORMAL,
) -> int:
    """How many requests of a tenant are let in before one is refused."""
    count = 0
    with tenant(name, priority):
        try:
            while True:
                tickets = stack.enter_context(queue.enter())
                if tokens:
                    queue.charge(tickets, [tokens])
                count += 1
        except QueueFull:
            return count


def test_a_tenant_gets_no_more_than_it_leaves_free() -> None:
    queue = make(max_requests=12)
    with ExitStack() as stack:
        assert enter_all(stack, queue, "alice") == 6
        assert enter_all(stack, queue, "bob") == 3
        assert enter_all(stack, queue, "alice") == 0
        assert enter_all(stack, queue, "carol") == 2
        with tenant("alice"), pytest.raises(QueueFull) as caught, queue.enter():
            pass
        assert str(caught.value) == (
            "6 requests of this token are waiting, and room for 1 is left; try again later"
        )
        assert enter_all(stack, queue, "dora") == 1
        assert enter_all(stack, queue, "erik") == 0, "the queue is full"
    assert queue.requests == 0
    with ExitStack() as stack:
        assert enter_all(stack, queue, "alice") == 6, "nothing is left behind"


def test_two_that_flood_in_turn_have_a_third_each() -> None:
    queue = make(max_requests=12)
    got = Counter[str]()
    with ExitStack() as stack:
        for _ in range(20):
            for name in ("alice", "bob"):
                with tenant(name), suppress(QueueFull):
                    stack.enter_context(queue.enter())
                    got[name] += 1
    assert got == {"alice": 4, "bob": 4}


def test_tokens_are_shared_alike() -> None:
    queue = make(max_requests=1000, max_tokens=120)
    with ExitStack() as stack:
        assert enter_all(stack, queue, "alice", tokens=10) == 6
        assert enter_all(stack, queue, "bob", tokens=10) == 3
        assert queue.tokens == 90


def test_without_tenants_nobody_shares() -> None:
    queue = make(max_requests=12)
    with ExitStack() as stack:
        assert enter_all(stack, queue, "") == 12


async def test_bulk_streams_of_tenants_take_turns() -> None:
    queue, leave = make(max_requests=8, max_tokens=1000), asyncio.Event()
    entered: list[int] = []
    tasks: list[asyncio.Task[None]] = []
    for name, number in [*(("alice", 1) for _ in range(20)), ("bob", 2), ("bob", 2)]:
        with tenant(name):
            tasks.append(asyncio.create_task(enter(queue, number, entered, leave)))
    await asyncio.sleep(0.01)
    assert entered == [1, 1, 1, 1], "half of the queue"
    for task in tasks[:2]:  # two of alice's places are free again
        task.cancel()
    await asyncio.sleep(0.01)
    assert entered == [1, 1, 1, 1, 2, 2], "bob came last and has fewest"
    leave.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (queue.requests, queue.tokens, len(queue._outside)) == (0, 0, 0)


def test_batches_leave_half_of_the_queue_to_others() -> None:
    for name in ("", "alice"):
        queue = make(max_requests=12)
        with ExitStack() as stack:
            assert enter_all(stack, queue, name, priority=Priority.BATCH) == 6
            with tenant(name, Priority.BATCH), pytest.raises(QueueFull) as caught, queue.enter():
                pass
            assert "6 requests are waiting; the limit of a batch is 6" in str(caught.value)
            assert enter_all(stack, queue, name) == (3 if name else 6), "as if it had nothing"
        assert queue.requests == 0


def test_tokens_of_batches_leave_half_too() -> None:
    queue = make(max_requests=1000, max_tokens=120)
    with ExitStack() as stack:
        assert enter_all(stack, queue, "", tokens=10, priority=Priority.BATCH) == 6
        assert enter_all(stack, queue, "", tokens=10) == 6


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 1000.0
        monkeypatch.setattr("time.perf_counter", lambda: self._now)
        monkeypatch.setattr("time.perf_counter_ns", lambda: round(self._now * 1e9))

    def sleep(self, seconds: float) -> None:
        self._now += seconds


def busy(stack: ExitStack, queue: Admission, clock: Clock) -> None:
    """100 tokens a second for 3 s, and 200 tokens that wait."""
    held = deque[Ticket]()
    for _ in range(35):
        [ticket] = stack.enter_context(queue.enter())
        ticket.charge(10)
        held.append(ticket)
        if len(held) > 20:
            clock.sleep(0.1)
            held.popleft().release()
    stack.enter_context(queue.enter())[0].charge(50)
    assert queue.tokens == 250


def ask(queue: Admission, priority: Priority, deadline: float, name: str = "") -> None:
    call = Call("method", "id", streaming=False, tenant=name, priority=priority)
    call.deadline_ns = time.perf_counter_ns() + round(deadline * 1e9)
    enter_call(call)
    try:
        with queue.enter():
            pass
    finally:
        enter_call(Call("method", "id", streaming=False))


def test_who_would_come_too_late_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, queue = Clock(monkeypatch), make(max_requests=100, max_tokens=10_000)
    with ExitStack() as stack:
        busy(stack, queue, clock)  # 2.5 s of work
        ask(queue, Priority.NORMAL, 4.0)
        with pytest.raises(TooLate) as caught:
            ask(queue, Priority.NORMAL, 3.0)
        assert re.search(r"in about 2\.[45] s, and the deadline is in 3\.0 s", str(caught.value))
        assert caught.value.retry_after_s == 1.0
        with pytest.raises(TooLate):
            ask(queue, Priority.BATCH, 3.0)
        ask(queue, Priority.HIGH, 0.1)  # goes before all of it


def test_an_own_line_is_asked_how_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another tenant's flood makes nobody late: they take turns."""
    clock, queue = Clock(monkeypatch), make(max_requests=200, max_tokens=10_000)
    with ExitStack() as stack:
        with tenant("alice"):
            busy(stack, queue, clock)
        ask(queue, Priority.NORMAL, 0.1, "bob")
        with tenant("bob"):
            stack.enter_context(queue.enter())[0].charge(100)
        ask(queue, Priority.NORMAL, 3.5, "bob")
        with pytest.raises(TooLate, match=r"about (1\.9|2\.0) s"):  # 100 tokens, two tenants
            ask(queue, Priority.NORMAL, 2.5, "bob")


def test_nobody_is_refused_by_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing has come out, or after the queue was empty."""
    clock, queue = Clock(monkeypatch), make(max_requests=100, max_tokens=10_000)
    with ExitStack() as stack:
        stack.enter_context(queue.enter())[0].charge(5000)
        clock.sleep(2)
        ask(queue, Priority.NORMAL, 0.1)
    with ExitStack() as stack:
        busy(stack, queue, clock)
    with ExitStack() as stack:
        stack.enter_context(queue.enter())[0].charge(5000)
        ask(queue, Priority.NORMAL, 0.1)


def test_what_is_given_up_is_not_taken_for_work_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, queue = Clock(monkeypatch), make(max_requests=100, max_tokens=10_000)
    with ExitStack() as stack:
        stack.enter_context(queue.enter())[0].charge(100)
        for _ in range(20):
            with queue.enter() as [ticket]:
                ticket.charge(1000)
                clock.sleep(0.1)
        assert queue.pace.seconds_for(100) == 0
