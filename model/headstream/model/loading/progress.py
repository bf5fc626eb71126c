"""How loading tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(stage, done, total); called at the start and the end of a stage and between, from one thread."""


def silent(stage: str, done: int, total: int) -> None:
    """A progress callback that tells nobody."""
