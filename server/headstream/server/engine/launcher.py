"""Two ways to run an engine: a child process, or a thread for tests and notebooks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

import msgspec

from headstream.server.engine.config import EngineConfig

_SPIN_COUNT = "3000"
"""GNU OpenMP threads spin this long for work before they sleep: the default waits long enough to
double a step's time when the machine is shared, none at all costs 20..60% when it is quiet."""

_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


class EngineProcess:
    """A child process, or one for each rank: they die with their parent, and with each other."""

    def __init__(self) -> None:
        self._ranks: list[asyncio.subprocess.Process] = []

    async def launch(self, config: EngineConfig, address: str) -> None:
        """Start them; OpenMP reads its settings before torch is loaded."""
        environment = dict(os.environ)
        num_ranks = config.tensor_parallel
        threads = config.num_threads or max(1, len(os.sched_getaffinity(0)) // num_ranks)
        environment["OMP_NUM_THREADS"] = str(threads)
        environment.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
        # What ranks say to each other is neither authenticated nor encrypted: it stays here.
        for library in ("GLOO", "NCCL"):
            environment[f"{library}_SOCKET_IFNAME"] = _LOOPBACK
        arguments = [msgspec.json.encode(config).decode(), address, str(os.getpid())]
        self._ranks = []
        for rank in range(num_ranks):
            module = "headstream.server.engine." + ("follower" if rank else "loop")
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments, str(rank)),
                env=environment,
                # Ctrl-C reaches the front alone, which then stops the engine in order.
                start_new_session=True,
            )
            self._ranks.append(process)

    async def wait(self) -> None:
        """Return when the engine has ended, which it has when any of its ranks has."""
        ranks = self._ranks  # of this engine: the next one may start before its end is known
        if not ranks:  # none could be launched
            return
        ends = [asyncio.create_task(process.wait()) for process in ranks]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            _kill(ranks)
            await asyncio.wait(ends)
        finally:
            for end in ends:
                end.cancel()

    def kill(self) -> None:
        """End it now, if it has not ended."""
        _kill(self._ranks)


def _kill(ranks: Sequence[asyncio.subprocess.Process]) -> None:
    for process in ranks:
        if process.returncode is None:  # its own kill() would reap it before the loop does
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


class EngineThread:
    """A thread of this process."""

    def __init__(self) -> None:
        self._stopping = threading.Event()

    async def launch(self, config: EngineConfig, address: str) -> None:
        """Start the thread.

        Raises:
            ValueError: several ranks are several processes.
        """
        if config.tensor_parallel > 1:
            raise ValueError("tensor_parallel: an engine within a process is one rank")
        from headstream.server.engine import loop  # noqa: PLC0415 - torch, in this mode only

        self._stopping = stopping = threading.Event()  # its own: one before may still be in a step
        self._thread = threading.Thread(
            target=loop.run,
            args=(config, address, lambda: not stopping.is_set()),
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
