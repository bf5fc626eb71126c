"""Whether a server that is asked again and again grows: what it holds, sampled, and the slope."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from server_process import Server

MIB = 1 << 20


@dataclass
class Held:
    """What a server's processes hold at rest."""

    fds: int
    threads: int
    tasks: float
    blocks: float
    calls: float

    @classmethod
    def by(cls, server: Server) -> Held:
        """Of the front and its engine together."""
        processes = [psutil.Process(server.process.pid), *server.engines()]
        values = server.metrics()
        return cls(
            fds=sum(process.num_fds() for process in processes),
            threads=sum(process.num_threads() for process in processes),
            tasks=values["event_loop_tasks",],
            blocks=values["kv_blocks_used", "tiny"],
            calls=sum(value for key, value in values.items() if key[0] == "requests_open"),
        )


@dataclass
class Growth:
    """Resident memory over time."""

    seconds: list[float] = field(default_factory=list[float])
    mebibytes: list[float] = field(default_factory=list[float])

    async def watch(self, server: Server, interval: float = 0.5) -> None:
        """Sample until cancelled."""
        processes = [psutil.Process(server.process.pid), *server.engines()]
        began = time.monotonic()
        while True:
            self.seconds.append(time.monotonic() - began)
            self.mebibytes.append(sum(each.memory_info().rss for each in processes) / MIB)
            await asyncio.sleep(interval)

    def slope(self, warm_up: float = 0.3) -> float:
        """MiB a minute by least squares, behind the first part of the time."""
        seconds, mebibytes = np.array(self.seconds), np.array(self.mebibytes)
        kept = seconds > warm_up * seconds[-1]
        fitted: Any = np.polynomial.polynomial.polyfit(seconds[kept] / 60, mebibytes[kept], 1)
        return float(fitted[1])

    def leaking(self, per_minute: float) -> Growth:
        """The same, of a server that leaks so many MiB besides."""
        leaked = [
            value + per_minute * seconds / 60
            for seconds, value in zip(self.seconds, self.mebibytes, strict=True)
        ]
        return Growth(self.seconds, leaked)
