"""The explorer's part of the admin port: the page's files, and the bridge it calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from http import HTTPStatus

import grpc
import grpc.aio

from headstream.server.config import Settings
from headstream.server.explorer.bridge import Bridge, BridgeError
from headstream.server.explorer.files import page_files
from headstream.server.explorer.origin import why_refused
from headstream.server.http import (
    Reply,
    Request,
    text_reply,
    write_chunk,
    write_head,
    write_reply,
)

ROOT = "/explorer"
API = f"{ROOT}/api/"
JSON = "application/json"
LINES = "application/x-ndjson"
READ_SECONDS = 5.0

Code = grpc.StatusCode

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


_CHUNKED = {"Content-Type": LINES, "Transfer-Encoding": "chunked"}


def is_below(path: str) -> bool:
    """Whether a path of the admin port is the explorer's."""
    return path == ROOT or path.startswith(f"{ROOT}/")


class Explorer:
    """Answers requests below /explorer. A call ends when its browser leaves."""

    def __init__(self, settings: Settings) -> None:
        self._address = settings.host
        # JSON is longer than the message it stands for: bytes by a third, small numbers more.
        self._max_body = 4 * settings.max_request_bytes
        self._stalled = settings.stalled_stream
        self._files = page_files()
        self._bridge = Bridge()
        self._open: set[asyncio.Task[object]] = set()

    def attach(self, server: grpc.aio.Server) -> None:
        """Have the gRPC server, not yet started, listen to the bridge."""
        self._bridge.attach(server)

    async def close(self) -> None:
        """End what is open."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._bridge.close()

    async def answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request."""
        refusal = why_refused(request, self._address)
        if refusal is not None:
            error = BridgeError(Code.PERMISSION_DENIED, refusal)
            await self._write(writer, _error_reply(error), request)
        elif request.path.startswith(API):
            await self._serve_call(request, reader, writer)
        else:
            await self._write(writer, self._file(request), request)

    def _file(self, request: Request) -> Reply:
        if request.method not in ("GET", "HEAD"):
            return text_reply(HTTPStatus.METHOD_NOT_ALLOWED)
        if request.path == ROOT:  # the page's own links are relative to /explorer/
            return text_reply(HTTPStatus.PERMANENT_REDIRECT)
        reply = self._files.get(request.path.removeprefix(f"{ROOT}/"))
        return text_reply(HTTPStatus.NOT_FOUND) if reply is None else reply

    async def _write(self, writer: asyncio.StreamWriter, reply: Reply, request: Request) -> None:
        moved = reply.status is HTTPStatus.PERMANENT_REDIRECT
        headers = _HEADERS | ({"Location": f"{ROOT}/"} if moved else {})
        write_reply(writer, reply, with_body=request.method != "HEAD", headers=headers)
        async with asyncio.timeout(self._stalled):
            await writer.drain()

    async def _serve_call(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass a call on, until it or its caller is at the end."""
        if request.method != "POST":
            await self._write(writer, text_reply(HTTPStatus.METHOD_NOT_ALLOWED), request)
            return
        try:
            body = await self._read_body(request, reader)
        except BridgeError as error:
            await self._write(writer, _error_reply(error), request)
            return
        lines = self._bridge.call(request.path.removeprefix(API), body)
        answering = asyncio.create_task(self._stream(lines, request, writer))
        leaving = asyncio.create_task(reader.read(1))  # the end, or bytes that nobody asked for
        tasks: set[asyncio.Task[object]] = {answering, leaving}
        self._open |= tasks
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._open -= tasks
        if not answering.cancelled():
            answering.result()  # a connection that broke, or a bug

    async def _read_body(self, request: Request, reader: asyncio.StreamReader) -> bytes:
        # A page of another site may send some types without asking; not this one.
        content_type = request.headers.get("content-type", "").partition(";")[0]
        if content_type.strip().lower() != JSON:
            raise BridgeError(Code.INVALID_ARGUMENT, f"content-type: must be {JSON}")
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise BridgeError(Code.INVALID_ARGUMENT, "content-length: the body needs one")
        if int(length) > self._max_body:
            message = f"the body: {length} bytes; the limit is {self._max_body}"
            raise BridgeError(Code.RESOURCE_EXHAUSTED, message)
        async with asyncio.timeout(READ_SECONDS):
            return await reader.readexactly(int(length))

    async def _stream(
        self, lines: AsyncGenerator[bytes], request: Request, writer: asyncio.StreamWriter
    ) -> None:
        """Write lines as they come. The head waits for the first of them, or for an error."""
        begun = False
        try:
            async with contextlib.aclosing(lines):
                async for line in lines:
                    if not begun:
                        begun = True
                        write_head(writer, HTTPStatus.OK, _CHUNKED | _HEADERS)
                    await self._write_chunk(writer, line)
        except BridgeError as error:
            if not begun:
                await self._write(writer, _error_reply(error), request)
                return
            await self._write_chunk(writer, error.line())
        if not begun:  # a stream of nothing
            write_head(writer, HTTPStatus.OK, _CHUNKED | _HEADERS)
        await self._write_chunk(writer, b"")

    async def _write_chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        write_chunk(writer, data)
        async with asyncio.timeout(self._stalled):
            await writer.drain()


def _error_reply(error: BridgeError) -> Reply:
    return Reply(error.http_status, JSON, error.line())
