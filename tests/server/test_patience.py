"""One timer for all messages of a stream."""

from __future__ import annotations

import asyncio
import time

import pytest

from headstream.server.errors import SlowConsumer
from headstream.server.patience import Patience


async def test_a_message_has_the_whole_limit_and_no_more() -> None:
    patience = Patience(0.3)
    begun = 0.0

    async def send() -> None:
        async with patience.watch():
            with patience.message():
                pass
            await asyncio.sleep(0.2)  # the timer is on its way
            nonlocal begun
            begun = time.perf_counter()
            with patience.message():
                await asyncio.sleep(60)

    with pytest.raises(SlowConsumer):
        await send()
    assert 0.29 < time.perf_counter() - begun < 5  # the machine may be busy with others
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_what_is_no_message_may_take_longer() -> None:
    patience = Patience(0.05)
    async with patience.watch():
        for _ in range(3):
            await asyncio.sleep(0.2)
            with patience.message():
                pass


async def test_what_closes_a_stream_is_no_message() -> None:
    """A caller who leaves before a message has waited too long: what frees its call is not cut."""
    patience, closed = Patience(0.3), asyncio.Event()

    async def send() -> None:
        async with patience.watch():
            try:
                with patience.message():
                    await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.4)
                closed.set()

    sending = asyncio.create_task(send())
    await asyncio.sleep(0.2)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert closed.is_set()


async def test_errors_of_the_block_are_raised_as_themselves() -> None:
    async def fail(error: Exception) -> None:
        async with Patience(60).watch():
            raise error

    for error in (TimeoutError("own"), ValueError("own")):
        with pytest.raises(type(error), match="own"):
            await fail(error)


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def wait() -> None:
        async with Patience(60).watch():
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
