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
            patience.begin()
            patience.end()
            await asyncio.sleep(0.2)  # the timer is on its way
            nonlocal begun
            begun = time.perf_counter()
            patience.begin()
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
            patience.begin()
            patience.end()


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
