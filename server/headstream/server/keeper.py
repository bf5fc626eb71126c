"""An engine that has ended is started again, each time in a row later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from headstream.server.engine.state import EngineState
from headstream.server.models import ServedModel

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds before an engine is started again: at first, and at most. They double in between."""
STEADY_SECONDS = 60.0
"""An engine that has served for so long has not failed in a row."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.front")


class EngineKeeper:
    """Looks after the engine of one model, and sees from the first what becomes of it."""

    def __init__(
        self, model: ServedModel, restart: Callable[[], Awaitable[None]], most: int
    ) -> None:
        """``restart`` loads the model again; ``most``: tries in a row, after which it gives up.

        Made before the model is loaded: it may end as soon as that.
        """
        self.given_up = False
        self._model = model
        self._restart = restart
        self._most = most
        self._ended = asyncio.Event()
        self._tries = 0  # in a row
        self._serving_since: float | None = None
        model.handle.on_state(self._on_state)

    async def run(self) -> None:
        """From when the model has been loaded, until it gives up."""
        self._serving_since = time.monotonic()
        while not self.given_up:
            await self._ended.wait()
            if self._tries == self._most:
                self.given_up = True
                log.error("engine given up", model=self._model.name, tries=self._tries)
                return
            pause = min(FIRST_PAUSE * 2**self._tries, LONGEST_PAUSE)
            self._tries += 1
            log.warning("engine is started again", model=self._model.name, seconds=pause)
            await asyncio.sleep(pause)
            self._ended.clear()  # here: what ends in the pause is started again, too
            self._serving_since = None
            try:
                await self._restart()
            except Exception as error:  # whatever it was: nobody else tries again
                log.warning("engine did not start", model=self._model.name, error=str(error))
                self._ended.set()  # it has told so itself, unless what lies beside it is at fault
            else:
                self._serving_since = time.monotonic()

    def _on_state(self, state: EngineState) -> None:
        if state is EngineState.FAILED:
            since, self._serving_since = self._serving_since, None
            if since is not None and time.monotonic() - since > STEADY_SECONDS:
                self._tries = 0
            self._ended.set()
