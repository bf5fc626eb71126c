"""How fast a queue moves, measured."""

from __future__ import annotations

import math
import time

_SPAN_SECONDS = 2.0  # of the moving mean
_KNOWN_SECONDS = 0.5  # in so short a time nobody can tell


class Pace:
    """Tokens a second that leave the queue for their first result, while somebody is in it.

    What an idle engine could do is not known, so the measurement begins anew whenever the queue was
    empty, or nobody in it waited for the engine.
    """

    def __init__(self) -> None:
        self._tokens = 0.0  # that left, the older ones counting less
        self._seconds = 0.0  # in which they did, likewise
        self._last = time.perf_counter()

    def begin(self) -> None:
        """Nobody waited until now."""
        self._tokens = self._seconds = 0.0
        self._last = time.perf_counter()

    def note(self, num_tokens: int) -> None:
        """So many left it, served."""
        self._advance()
        self._tokens += num_tokens

    def seconds_for(self, num_tokens: int) -> float:
        """About how long the queue takes for so many; 0 where nobody can tell."""
        self._advance()
        if not self._tokens or self._seconds < _KNOWN_SECONDS:
            return 0.0
        return num_tokens * self._seconds / self._tokens

    def _advance(self) -> None:
        now = time.perf_counter()
        kept = math.exp((self._last - now) / _SPAN_SECONDS)
        self._tokens *= kept
        self._seconds = self._seconds * kept + _SPAN_SECONDS * (1 - kept)
        self._last = now
