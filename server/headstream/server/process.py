"""The front as a process: it serves until a signal."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from headstream.server.config import Settings
from headstream.server.engine.messages import Loading
from headstream.server.front import Front, Ports


async def serve(
    settings: Settings,
    on_progress: Callable[[Loading], None],
    on_ready: Callable[[Ports], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    Raises:
        ConfigError: A port, a TLS file or the tokens cannot be used.
        EngineStartError: A model cannot be loaded.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)  # the engines end with their parent
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    front = Front(settings)
    ports = await front.listen()
    try:
        if await _load_or_stop(front, on_progress, stop):
            on_ready(ports)
            await stop.wait()
            await front.drain()
    finally:
        await front.close()


async def _load_or_stop(
    front: Front, on_progress: Callable[[Loading], None], stop: asyncio.Event
) -> bool:
    """Load; False if a signal came first."""
    loading = asyncio.create_task(front.load(on_progress))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if loading.done():
        loading.result()
        return True
    loading.cancel()
    await asyncio.wait({loading})
    return False
