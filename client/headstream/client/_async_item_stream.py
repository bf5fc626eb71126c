"""What iterating over a call has in common, for the async client: pull, feed, close, map errors."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Self, TypeVar, cast

import grpc.aio

from headstream.client import _status
from headstream.client._event_parser import EventParser, EventT, ItemT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from headstream.client._errors import RpcError

RequestT = TypeVar("RequestT")


class AsyncItemStream(EventParser[EventT, ItemT]):
    """Async iterator over what the events of a call make. Its end, whatever it is, ends the call.

    A subclass says where events come from; a parser, what becomes of them.
    """

    _over = True  # until the call has begun, or may begin

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT:
        while (item := self._take()) is None:
            if self._over:
                raise StopAsyncIteration
            await self._pull()
        return item

    async def aclose(self) -> None:
        """End the call on the server, if it is still running."""
        self._over = True
        self._cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._over:  # the loop was left: what runs inside gRPC would keep the call alive
            self._over = True
            self._cancel()

    async def _pull(self) -> None:
        """Take in the next event, or the end of the call."""
        try:
            event = await self._next_event()
        except grpc.aio.AioRpcError as cause:
            error = _status.from_call(cause, self._progress())
            error.__cause__ = cause
            await self._broken(error)
            return
        if event is not None:
            await self._take_in(event)
        elif (missing := self._missing()) is not None:
            await self._broken(missing)
        else:
            await self._finished()

    async def _take_in(self, event: EventT) -> None:
        try:
            self._feed(event)
        except BaseException:  # it has no place here, nor has what comes behind it
            await self.aclose()
            raise

    async def _broken(self, error: RpcError) -> None:
        """The call has failed, or has ended early."""
        await self.aclose()
        raise error

    async def _finished(self) -> None:
        """The call has ended well, and all has come."""
        await self.aclose()

    @abstractmethod
    async def _next_event(self) -> EventT | None:
        """The next event of the call; None: it has ended well. Raises gRPC's own errors."""

    @abstractmethod
    def _cancel(self) -> None:
        """End the call, if it has begun and still lasts."""


async def read_event(
    call: grpc.aio.UnaryStreamCall[RequestT, EventT], connect: Callable[[], Awaitable[None]]
) -> EventT | None:
    """The next event of a call that has begun; None: it has ended well.

    Raises:
        AioRpcError: It has ended otherwise.
        Unavailable: `connect` has found no server.
    """
    await connect()
    event = await call.read()
    return None if event is grpc.aio.EOF else cast("EventT", event)
