"""What iterating over a call has in common, for the sync client: pull, feed, close, map errors."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import grpc

from headstream.client import _status
from headstream.client._event_parser import EventParser, EventT, ItemT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from headstream.client._errors import RpcError

EventT_co = TypeVar("EventT_co", covariant=True)


class SyncCall(Protocol[EventT_co]):
    """The part of a streaming call that is used here."""

    def __iter__(self) -> Iterator[EventT_co]:
        """Itself."""
        ...

    def __next__(self) -> EventT_co:
        """The next event."""
        ...

    def cancel(self) -> bool:
        """End the call."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until it must be complete; None: no matter when."""
        ...


class ItemStream(EventParser[EventT, ItemT]):
    """Iterator over what the events of a call make. Its end, whatever it is, ends the call.

    A subclass says where events come from; a parser, what becomes of them.
    """

    _over = True  # until the call has begun, or may begin

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ItemT:
        while (item := self._take()) is None:
            if self._over:
                raise StopIteration
            self._pull()
        return item

    def close(self) -> None:
        """End the call on the server, if it is still running."""
        self._over = True
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._over:
            self.close()

    def _pull(self) -> None:
        """Take in the next event, or the end of the call."""
        try:
            event = self._next_event()
        except grpc.RpcError as cause:
            error = _status.from_call(cause, self._progress())
            error.__cause__ = cause
            self._broken(error)
            return
        if event is not None:
            self._take_in(event)
        elif (missing := self._missing()) is not None:
            self._broken(missing)
        else:
            self._finished()

    def _take_in(self, event: EventT) -> None:
        try:
            self._feed(event)
        except BaseException:  # it has no place here, nor has what comes behind it
            self.close()
            raise

    def _broken(self, error: RpcError) -> None:
        """The call has failed, or has ended early."""
        self.close()
        raise error

    def _finished(self) -> None:
        """The call has ended well, and all has come."""
        self.close()

    @abstractmethod
    def _next_event(self) -> EventT | None:
        """The next event of the call; None: it has ended well. Raises gRPC's own errors."""

    @abstractmethod
    def _cancel(self) -> None:
        """End the call, if it has begun and still lasts."""
