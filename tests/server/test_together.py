"""Several streams read as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from headstream.server.together import gather, merge


class Source:
    """A stream of numbers that notes how far it was read and that it was closed."""

    def __init__(self, start: int, count: int, pause: float = 0.0) -> None:
        self.made = 0
        self.closed = False
        self._range = range(start, start + count)
        self._pause = pause

    async def items(self) -> AsyncGenerator[int]:
        try:
            for item in self._range:
                await asyncio.sleep(self._pause)
                self.made += 1
                yield item
        finally:
            self.closed = True


async def test_every_item_comes_once_and_in_the_order_of_its_stream() -> None:
    sources = [Source(100 * i, 10 * i) for i in range(5)]
    async with aclosing(merge([source.items() for source in sources])) as merged:
        found = [item async for item in merged]
    assert sorted(found) == [item for i in range(5) for item in range(100 * i, 110 * i)]
    for i in range(5):
        own = [item for item in found if item // 100 == i]
        assert own == sorted(own)


async def test_a_slow_stream_holds_up_nobody() -> None:
    slow, quick = Source(0, 1, pause=60), Source(100, 50)
    async with aclosing(merge([slow.items(), quick.items()])) as merged:
        assert [await anext(merged) for _ in range(50)] == list(range(100, 150))
    assert slow.closed


async def test_streams_wait_for_the_reader() -> None:
    sources = [Source(0, 1000), Source(5000, 1000)]
    async with aclosing(merge([source.items() for source in sources])) as merged:
        for _ in range(10):
            await anext(merged)
        await asyncio.sleep(0.05)
        assert sum(source.made for source in sources) <= 10 + 2
    assert all(source.closed for source in sources)


async def test_a_failure_is_raised_as_itself_and_closes_all() -> None:
    async def bad() -> AsyncGenerator[int]:
        yield 1
        raise ValueError("bad")

    async def read(merged: AsyncGenerator[int]) -> None:
        async with aclosing(merged):
            async for _ in merged:
                pass

    other = Source(10, 1000, pause=0.001)
    with pytest.raises(ValueError, match="bad"):
        await read(merge([other.items(), bad()]))
    assert other.closed


async def test_gather_gives_results_in_order_and_the_first_failure() -> None:
    async def after(seconds: float, result: int) -> int:
        await asyncio.sleep(seconds)
        if result < 0:
            raise ValueError(result)
        return result

    assert await gather([after(0.02, 1), after(0.0, 2)]) == [1, 2]
    with pytest.raises(ValueError, match="-1"):
        await gather([after(60, 1), after(0.0, -1)])
