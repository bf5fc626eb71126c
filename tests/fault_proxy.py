"""A TCP proxy that does what networks do: delay, starve, swallow, reset, close one way."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

CHUNK = 16 << 10


@dataclass
class FaultProxy:
    """Passes bytes on to ``target``; what is set while it runs holds for every connection."""

    target: str
    delay: float = 0.0  # seconds that every byte is late
    rate: float | None = None  # bytes per second of each direction; None: all there are
    swallows: bool = False  # bytes are taken and go nowhere
    address: str = ""
    connected: asyncio.Event = field(default_factory=asyncio.Event)  # while somebody is
    _writers: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])
    _clients: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        self.reset()

    def reset(self) -> None:
        """RST to both ends of all connections."""
        for writer in list(self._writers):
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def half_close(self) -> None:
        """The clients are told that nothing more comes; what they say still goes through."""
        for writer in list(self._clients):
            writer.write_eof()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        server_reader, server_writer = await asyncio.open_connection(host, int(port))
        ends = {writer, server_writer}
        self._writers |= ends
        self._clients.add(writer)
        self.connected.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server_writer))
                group.create_task(self._pump(server_reader, writer))
        except* OSError:
            pass
        finally:
            self._writers -= ends
            self._clients.discard(writer)
            if not self._clients:
                self.connected.clear()
            for end in ends:
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, in order; late bytes are read on time."""
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.create_task(self._write(late, writer))
        try:
            while data := await reader.read(CHUNK if self.rate is None else 128):
                if self.swallows:
                    continue
                late.put_nowait((time.monotonic() + self.delay, data))
                if self.rate is not None:
                    await asyncio.sleep(len(data) / self.rate)
            late.put_nowait((0.0, b""))
            await writing
        finally:
            writing.cancel()

    async def _write(
        self, late: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await late.get()
            await asyncio.sleep(due - time.monotonic())
            if not data:
                if writer.can_write_eof() and not writer.is_closing():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
