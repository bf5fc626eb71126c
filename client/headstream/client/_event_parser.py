"""What the events of a stream become, the same for both clients. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from headstream.client._errors import RpcError

EventT = TypeVar("EventT")
ItemT = TypeVar("ItemT")


class EventParser(ABC, Generic[EventT, ItemT]):
    """Events in, items out. A stream is one of these, and an `ItemStream` or its async twin."""

    @abstractmethod
    def _feed(self, event: EventT) -> None:
        """Take in one event."""

    @abstractmethod
    def _take(self) -> ItemT | None:
        """The oldest item that is complete and was not taken yet, if there is one."""

    @abstractmethod
    def _progress(self) -> int | None:
        """How far the stream has come; None while it has not begun."""

    @abstractmethod
    def _missing(self) -> RpcError | None:
        """What is wrong where the call has ended well; None: all has come."""
