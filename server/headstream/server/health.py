"""grpc.health.v1: what it reports is the engines, not the process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse

from headstream.server.models import Models


class Health:
    """SERVING for "" and every service while all engines answer and the server is not draining."""

    def __init__(self, models: Models, services: Sequence[str]) -> None:
        self.servicer: Any = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue] - set at import
        self.draining = False
        self._models = models
        self._names = ("", *services)
        self._updates: set[asyncio.Task[None]] = set()

    @property
    def serving(self) -> bool:
        """Whether new calls are welcome."""
        return self._models.serving and not self.draining

    async def update(self) -> None:
        """Tell everyone who watches."""
        status = HealthCheckResponse.SERVING if self.serving else HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.servicer.set(name, status)

    def update_soon(self) -> None:
        """The same, from where nothing can be awaited."""
        task = asyncio.get_running_loop().create_task(self.update())
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)
