"""The engine's own process (or thread): load, then step while there is work."""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec
import zmq

from headstream.model.allocator import tune_allocator
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.messages import (
    Failed,
    FromEngine,
    Loading,
    Shutdown,
    ToEngine,
)
from headstream.server.engine.parent import end_with_parent

HEARTBEAT_MS = 1000
BLOCKED_MS = 20
"""Between steps while those who run wait for their readers. News from the front ends the pause."""


def run(config: EngineConfig, address: str, alive: Callable[[], bool]) -> None:
    """Serve one model over the socket at ``address`` until told to stop or ``alive`` says no."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.SNDHWM, 0)  # bounded by each sequence's credit, not by the socket
    socket.connect(address)
    try:
        _serve(config, address, _Channel(socket), alive)
    finally:
        context.destroy(linger=HEARTBEAT_MS)


class _Channel:
    """Typed messages over the socket, tensors behind them as raw frames."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ToEngine)

    def send(self, message: FromEngine, buffers: list[memoryview] | None = None) -> None:
        """Send a message and the frames behind it; the frames' memory is not copied here."""
        self._socket.send_multipart([self._encoder.encode(message), *(buffers or [])], copy=False)

    def receive(self, timeout_ms: int) -> list[ToEngine]:
        """All messages that have arrived, waiting up to ``timeout_ms`` for the first."""
        messages: list[ToEngine] = []
        while self._socket.poll(0 if messages else timeout_ms):
            messages.append(self._decoder.decode(self._socket.recv()))
        return messages


def _serve(
    config: EngineConfig, address: str, channel: _Channel, alive: Callable[[], bool]
) -> None:
    from headstream.model.errors import ModelError  # noqa: PLC0415 - torch loads after main()
    from headstream.server.engine.build import build  # noqa: PLC0415 - as above
    from headstream.server.engine.core import EngineCore  # noqa: PLC0415 - as above

    def progress(stage: str, done: int, total: int) -> None:
        channel.send(Loading(stage, done, total))

    try:
        runner, scheduler, ready = build(config, progress, address)
    except (ModelError, ValueError, OSError, MemoryError, RuntimeError) as error:
        channel.send(Failed(str(error) or repr(error)))
        return
    core = EngineCore(
        runner, scheduler, lambda message, frames: channel.send(message, frames.buffers)
    )
    channel.send(ready)
    while alive():
        busy = core.has_work
        for message in channel.receive(BLOCKED_MS * core.is_blocked if busy else HEARTBEAT_MS):
            if isinstance(message, Shutdown):
                runner.close()
                return
            core.handle(message)
        if core.has_work:
            core.step()
        else:
            core.heartbeat()


def main() -> None:
    """The process: ``python -m headstream.server.engine.loop CONFIG_JSON ADDRESS PARENT_PID``."""
    config = msgspec.json.decode(sys.argv[1], type=EngineConfig)
    alive = end_with_parent(int(sys.argv[3]))
    tune_allocator()
    run(config, sys.argv[2], alive)


if __name__ == "__main__":
    main()
