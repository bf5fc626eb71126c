"""The admin port: /metrics, /livez and /readyz over plain HTTP/1.1.

On the event loop, not in a thread, so that a stuck loop fails its liveness check.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

READ_SECONDS = 5.0
MAX_HEAD_BYTES = 16 * 1024
TEXT = "text/plain; charset=utf-8"

Reply = tuple[HTTPStatus, str, bytes]


class AdminServer:
    """Answers GET and HEAD, one request a connection."""

    def __init__(
        self, registry: CollectorRegistry, alive: Callable[[], bool], ready: Callable[[], bool]
    ) -> None:
        self._registry = registry
        self._alive = alive
        self._ready = ready
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
                    head = await reader.readuntil(b"\r\n\r\n")
                    self._write(writer, head)
                    await writer.drain()
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                pass
            finally:
                writer.close()

    def _write(self, writer: asyncio.StreamWriter, head: bytes) -> None:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        method, target = words[0], words[1] if len(words) > 1 else ""
        status, content_type, body = self._answer(method, target.partition("?")[0])
        writer.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        )
        if method != "HEAD":
            writer.write(body)

    def _answer(self, method: str, path: str) -> Reply:
        if method not in ("GET", "HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED)
        match path:
            case "/metrics":
                return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self._registry)
            case "/livez":
                return _text(HTTPStatus.OK if self._alive() else HTTPStatus.SERVICE_UNAVAILABLE)
            case "/readyz":
                return _text(HTTPStatus.OK if self._ready() else HTTPStatus.SERVICE_UNAVAILABLE)
            case _:
                return _text(HTTPStatus.NOT_FOUND)


def _text(status: HTTPStatus) -> Reply:
    return status, TEXT, f"{status.phrase}\n".encode()
