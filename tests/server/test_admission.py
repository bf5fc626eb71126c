from __future__ import annotations

import asyncio

import pytest

from headstream.server.admission import Admission
from headstream.server.errors import QueueFull


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


async def enter(
    queue: Admission, num_tokens: int, entered: list[int], leave: asyncio.Event
) -> None:
    async with queue.wait(num_tokens):
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
    async with queue.wait(1000):
        assert (queue.requests, queue.tokens) == (1, 1000)
    assert (queue.requests, queue.tokens) == (0, 0)


async def test_a_place_given_to_who_is_cancelled_meanwhile_is_free_again() -> None:
    queue, entered = make(), list[int]()
    async with queue.wait(1):
        task = asyncio.create_task(enter(queue, 2, entered, asyncio.Event()))
        await asyncio.sleep(0)
    assert queue.tokens == 2
    task.cancel()  # before it has run
    await asyncio.gather(task, return_exceptions=True)
    assert (entered, queue.requests, queue.tokens) == ([], 0, 0)
