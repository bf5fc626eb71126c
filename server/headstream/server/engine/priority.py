"""How urgent a request is: who goes first, and who gives way."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """Numbered as in the contract, the more urgent the higher."""

    BATCH = 1  # work in the background, of which nobody waits for the next token
    NORMAL = 2
    HIGH = 3

    @property
    def word(self) -> str:
        """For people: `batch`, `normal`, `high`."""
        return self.name.lower()
