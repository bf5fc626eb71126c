"""Whether an engine answers."""

from __future__ import annotations

import enum


class EngineState(enum.Enum):
    """Of one engine, as the front sees it."""

    LOADING = "loading"
    SERVING = "serving"
    FAILED = "failed"
    STOPPED = "stopped"  # because it was asked to
