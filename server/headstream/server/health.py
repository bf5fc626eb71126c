"""grpc.health.v1: what it reports is the engines, not the process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse

from headstream.server.models import Models, ServedModel


class Health:
    """SERVING for "" and every service while a model answers and the server is not draining.

    All models must have been loaded before. Each has a name of its own besides, ``model/NAME``:
    SERVING while its engine answers.
    """

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

    def serves(self, model: ServedModel) -> bool:
        """The same of one model."""
        return model.serving and not self.draining

    async def update(self) -> None:
        """Tell everyone who watches."""
        for name in self._names:
            await self.servicer.set(name, _status(self.serving))
        for model in self._models:
            await self.servicer.set(f"model/{model.name}", _status(self.serves(model)))

    def update_soon(self) -> None:
        """The same, from where nothing can be awaited."""
        task = asyncio.get_running_loop().create_task(self.update())
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)


def _status(serving: bool) -> HealthCheckResponse.ServingStatus:
    return HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
