"""How long a caller may leave a message of its stream untaken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from headstream.server.errors import SlowConsumer


class Patience:
    """Watches the messages of one stream.

    One timer does, which looks when the oldest message could be due: a timer for each would cost a
    good part of what sending a token does.
    """

    def __init__(self, limit: float) -> None:
        """``limit``: seconds that one message may take."""
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._begun: float | None = None  # when the message began that is under way
        self._timeout = asyncio.timeout(None)

    @contextmanager
    def message(self) -> Generator[None]:
        """The block hands one message to gRPC, which takes it when the caller has room."""
        self._begun = self._loop.time()
        try:
            yield
        finally:
            self._begun = None

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[None]:
        """End what the running task does within the block once a message takes too long.

        Raises:
            SlowConsumer: One did.
        """
        self._look()
        try:
            async with self._timeout:
                yield
        except TimeoutError:
            if self._timeout.expired():
                raise SlowConsumer(self._limit) from None
            raise
        finally:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        due = (now if self._begun is None else self._begun) + self._limit
        if due <= now:
            self._timeout.reschedule(now)
        else:
            self._timer = self._loop.call_at(due, self._look)
