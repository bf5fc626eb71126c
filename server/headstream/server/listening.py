"""The gRPC port, held whatever becomes of the server behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc.aio
import structlog

from headstream.access import call_server

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0
"""Seconds before each try to bind a port that the server before has to leave. They double."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.front")


class Listening:
    """A server that is replaced at once when it ends by itself; its calls go on meanwhile.

    ``make`` gives a server that is bound to a port, not yet started, and the port's number; where
    it fails, nothing stays bound.
    """

    def __init__(self, make: Callable[[int], Awaitable[tuple[grpc.aio.Server, int]]]) -> None:
        self.alive = True  # new calls are taken
        self._make = make
        self._server: grpc.aio.Server | None = None
        self._ended: dict[asyncio.Task[None], grpc.aio.Server] = {}  # with calls that go on
        self._keeping: asyncio.Task[None] | None = None

    async def bind(self, port: int) -> int:
        """Take the port; returns its number.

        Raises:
            ConfigError: It is taken.
        """
        self._server, self._port = await self._make(port)
        return self._port

    async def start(self) -> None:
        """Take calls."""
        assert self._server is not None, "it is bound first"
        taking = await call_server.start(self._server)
        self._keeping = asyncio.create_task(self._keep(self._server, taking), name="listening")

    async def stop(self, grace: float | None) -> None:
        """Take no more calls; those that run may take ``grace`` seconds, None: are ended now."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        servers = [*self._ended.values(), *([] if self._server is None else [self._server])]
        await asyncio.gather(*(call_server.stop(server, grace) for server in servers))

    async def _keep(self, server: grpc.aio.Server, taking: asyncio.Future[object]) -> None:
        while True:
            await asyncio.wait({taking})  # to await it itself would cancel it, too
            self.alive = False
            log.error(
                "the gRPC server has ended by itself and is started again",
                exc_info=None if taking.cancelled() else taking.exception(),
            )
            leaving = asyncio.create_task(call_server.stop(server, call_server.NO_END))
            self._ended[leaving] = server
            leaving.add_done_callback(self._ended.pop)
            server, taking = await self._listen_anew()
            self.alive = True

    async def _listen_anew(self) -> tuple[grpc.aio.Server, asyncio.Future[object]]:
        pause = FIRST_PAUSE
        while True:
            # Also at first: of the addresses of a name, the server before may have left only some,
            # and a server that gets only some of them is content.
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                self._server, _ = await self._make(self._port)
                return self._server, await call_server.start(self._server)
            except Exception as error:  # above all that the one before has not left the port yet
                log.warning("the gRPC port is tried again", seconds=pause, error=str(error))
