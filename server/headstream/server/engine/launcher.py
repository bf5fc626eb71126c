"""Two ways to run an engine: a child process, or a thread for tests and notebooks."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import msgspec

from headstream.server.engine.config import EngineConfig

_SPIN_COUNT = "3000"
"""GNU OpenMP threads spin this long for work before they sleep: the default waits long enough to
double a step's time when the machine is shared, none at all costs 20..60% when it is quiet."""


class EngineProcess:
    """A child process, which dies with its parent."""

    async def launch(self, config: EngineConfig, address: str) -> None:
        """Start the child; OpenMP reads its settings before torch is loaded."""
        environment = dict(os.environ)
        threads = config.num_threads or len(os.sched_getaffinity(0))
        environment["OMP_NUM_THREADS"] = str(threads)
        environment.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "headstream.server.engine.loop",
            msgspec.json.encode(config).decode(),
            address,
            env=environment,
            # Ctrl-C reaches the front alone, which then stops the engine in order.
            start_new_session=True,
        )

    async def wait(self) -> None:
        """Return when the engine has ended."""
        await self._process.wait()

    def kill(self) -> None:
        """End it now, if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()


class EngineThread:
    """A thread of this process."""

    async def launch(self, config: EngineConfig, address: str) -> None:
        """Start the thread."""
        from headstream.server.engine import loop  # noqa: PLC0415 - torch, in this mode only

        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=loop.run,
            args=(config, address, lambda: not self._stopping.is_set()),
            name="engine",
            daemon=True,
        )
        self._thread.start()

    async def wait(self) -> None:
        """Return when the engine has ended."""
        await asyncio.to_thread(self._thread.join)

    def kill(self) -> None:
        """Ask it to end after its step."""
        self._stopping.set()
