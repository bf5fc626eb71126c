"""Whether an engine still moves: a process can be up, and its engine stuck."""

from __future__ import annotations

import time
from collections.abc import Callable

from headstream.server.engine.messages import StepReport

STUCK_SECONDS = 30.0
"""Longest time between steps while there is work, and between reports at any time."""


class Heartbeat:
    """Listens to the reports of one engine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """The engine starts, or starts again: it is given the time that it takes to load."""
        self._last_report: float | None = None
        self._last_progress = self._clock()
        self._last_step = -1
        self._has_work = False

    def observe(self, report: StepReport) -> None:
        """Note a step or a heartbeat."""
        now, stats = self._clock(), report.stats
        had_work = self._has_work
        self._has_work = stats.running + stats.waiting > 0 and not stats.blocked
        # Idle time is no lack of progress: the count starts when there is work.
        if stats.step != self._last_step or not had_work:
            self._last_progress = now
        self._last_step = stats.step
        self._last_report = now

    @property
    def alive(self) -> bool:
        """Whether it reports, and makes steps if there is work."""
        if self._last_report is None:
            return True
        now = self._clock()
        if now - self._last_report > STUCK_SECONDS:
            return False
        return not self._has_work or now - self._last_progress <= STUCK_SECONDS
