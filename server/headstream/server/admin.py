"""The admin port: /metrics, /livez, /readyz and the explorer over plain HTTP/1.1.

On the event loop, not in a thread, so that a stuck loop fails its liveness check.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from headstream.server.explorer.explorer import Explorer, is_below
from headstream.server.http import (
    MAX_HEAD_BYTES,
    Reply,
    Request,
    read_request,
    text_reply,
    write_reply,
)

READ_SECONDS = 5.0


class AdminServer:
    """Answers GET and HEAD, one request a connection; what is below /explorer is the explorer's."""

    def __init__(
        self,
        registry: CollectorRegistry,
        alive: Callable[[], bool],
        ready: Callable[[], bool],
        explorer: Explorer | None = None,
    ) -> None:
        self._registry = registry
        self._alive = alive
        self._ready = ready
        self._explorer = explorer
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD_BYTES)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):  # whoever leaves or dawdles gets nothing
            try:
                async with asyncio.timeout(READ_SECONDS):
                    request = await read_request(reader)
                if self._explorer is not None and is_below(request.path):
                    await self._explorer.answer(request, reader, writer)
                    return
                async with asyncio.timeout(READ_SECONDS):
                    reply = self._answer(request)
                    write_reply(writer, reply, with_body=request.method != "HEAD")
                    await writer.drain()
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                pass
            finally:
                await _part(writer)

    def _answer(self, request: Request) -> Reply:
        if request.method not in ("GET", "HEAD"):
            return text_reply(HTTPStatus.METHOD_NOT_ALLOWED)
        match request.path:
            case "/metrics":
                body = generate_latest(self._registry)
                return Reply(HTTPStatus.OK, CONTENT_TYPE_LATEST, body)
            case "/livez":
                return text_reply(_up(self._alive()))
            case "/readyz":
                return text_reply(_up(self._ready()))
            case _:
                return text_reply(HTTPStatus.NOT_FOUND)


async def _part(writer: asyncio.StreamWriter) -> None:
    """Close a connection when all is sent; one that is not read would stay open for ever."""
    writer.close()
    try:
        async with asyncio.timeout(READ_SECONDS):
            await writer.wait_closed()
    finally:
        writer.transport.abort()  # of no effect on one that is closed


def _up(value: bool) -> HTTPStatus:
    return HTTPStatus.OK if value else HTTPStatus.SERVICE_UNAVAILABLE
