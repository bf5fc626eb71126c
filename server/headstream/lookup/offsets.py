"""Places in a text, counted in code points and in bytes of its UTF-8."""

from __future__ import annotations

import bisect
from itertools import accumulate


class ByteOffsets:
    """From code points to bytes and back, for one text."""

    def __init__(self, text: str) -> None:
        self._ascii = text.isascii()
        self._ends: list[int] = []
        if not self._ascii:
            sizes = (1 + (c > "\x7f") + (c > "\u07ff") + (c > "\uffff") for c in text)
            self._ends = [0, *accumulate(sizes)]
        self._length = len(text)

    def byte(self, char: int) -> int:
        """Bytes before the code point ``char``."""
        return char if self._ascii else self._ends[char]

    def char(self, byte: int) -> int | None:
        """The code point that begins at ``byte``; None inside of one, or behind the end."""
        if self._ascii:
            return byte if byte <= self._length else None
        found = bisect.bisect_left(self._ends, byte)
        return found if found < len(self._ends) and self._ends[found] == byte else None
