"""What is known of a stream that is read to its end."""

from __future__ import annotations

from typing import Protocol, TypeVar

EventT_contra = TypeVar("EventT_contra", contravariant=True)


class StreamState(Protocol[EventT_contra]):
    """Takes in events one by one. No I/O."""

    @property
    def reached(self) -> int | None:
        """How far the stream has come; None while it has not begun."""
        ...

    def feed(self, event: EventT_contra) -> None:
        """Take in one event."""
        ...
