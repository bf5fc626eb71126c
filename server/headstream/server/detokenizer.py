"""Text from tokens as they are generated, held back where it could still change."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from headstream.server.surfaces import Surfaces


class Detokenizer:
    """One continuation's text, token by token, cut at the first stop string.

    Works on the true bytes of the tokens, so it costs the same at any length, and a character split
    over tokens appears with its last byte.
    """

    def __init__(self, surfaces: Surfaces, stop_strings: Sequence[str] = ()) -> None:
        self._surfaces = surfaces
        self._stop_strings = tuple(stop_strings)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._ignored = 0  # characters held within which a complete stop string is text
        self.stop_string = ""  # the one that was met

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """The text that this token completes; sets ``stop_string`` when one is met.

        Stop strings that are complete while it may not stop are text.
        """
        if token_id in self._surfaces.special_ids:
            return ""
        return self._release(self._decoder.decode(self._surfaces[token_id]), may_stop=may_stop)

    def flush(self) -> str:
        """What is still held when no more tokens come."""
        if self.stop_string:
            return ""
        text = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, text: str, *, may_stop: bool = True) -> str:
        held = self._held + text
        if not may_stop:
            self._ignored = len(held)
        found = [(self._find(held, stop), stop) for stop in self._stop_strings]
        found = [(at, stop) for at, stop in found if at >= 0]
        if found:
            # The earliest; among those that start together, the longest.
            at, self.stop_string = min(found, key=lambda pair: (pair[0], -len(pair[1])))
            self._held = ""
            return held[:at]
        keep = max((_open_length(held, stop) for stop in self._stop_strings), default=0)
        cut = len(held) - keep
        self._held = held[cut:]
        self._ignored = max(0, self._ignored - cut)
        return held[:cut]

    def _find(self, held: str, stop: str) -> int:
        """Where the stop string begins that ends behind what is ignored, or -1."""
        return held.find(stop, max(0, self._ignored - len(stop) + 1))


def _open_length(text: str, stop: str) -> int:
    """Length of the longest end of the text that may begin the stop string."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
