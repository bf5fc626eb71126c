"""Several coroutines, or several streams, run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def gather(tasks: Sequence[Coroutine[object, object, Result]]) -> list[Result]:
    """All results in order; the first failure stops the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(task) for task in tasks]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in running]


def merge(streams: Sequence[AsyncGenerator[Item]]) -> AsyncGenerator[Item]:
    """The items of all streams as they come; none runs more than an item ahead of the reader.

    The first failure is raised as itself. Whatever ends it, all streams are closed.
    """
    return streams[0] if len(streams) == 1 else _merge(streams)


async def _merge(streams: Sequence[AsyncGenerator[Item]]) -> AsyncGenerator[Item]:
    async def step(stream: AsyncGenerator[Item]) -> Item | None:
        return await anext(stream, None)

    waiting = {asyncio.create_task(step(stream)): stream for stream in streams}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                item = task.result()
                stream = waiting.pop(task)
                if item is not None:
                    yield item
                    waiting[asyncio.create_task(step(stream))] = stream
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
