"""A trace whose tokens come one by one, for the sync and for the async client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstream.client import _status
from headstream.client._async_item_stream import AsyncItemStream, read_event
from headstream.client._event_parser import EventParser
from headstream.client._item_stream import ItemStream
from headstream.client._trace import TracedToken
from headstream.client._trace_state import TraceState
from headstream.v1 import internals_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import grpc.aio

    from headstream.client._errors import RpcError
    from headstream.client._item_stream import SyncCall
    from headstream.client._trace import Trace

    AsyncCall = grpc.aio.UnaryStreamCall[pb.TraceRequest, pb.TraceResponse]


class _Parser(EventParser[pb.TraceResponse, TracedToken]):
    """What both streams make of the events."""

    def __init__(self) -> None:
        self._state = TraceState()

    def _feed(self, event: pb.TraceResponse) -> None:
        self._state.feed(event)

    def _take(self) -> TracedToken | None:
        return self._state.take()

    def _progress(self) -> int | None:
        return self._state.reached

    def _missing(self) -> RpcError | None:
        return None if self._state.ended else _status.unfinished(self._state.reached or 0)


class TraceStream(_Parser, ItemStream[pb.TraceResponse, TracedToken]):
    """Iterator over the generated tokens of a trace; `result()` has the values of all positions.

    Leaving the loop early ends the call when the object goes away; `close()` or a `with` block
    ends it at once.

    Raises:
        StreamBroken: On iteration, when the stream ends without its end event.
        RpcError: On iteration, when the call fails in another way.
    """

    def __init__(self, call: SyncCall[pb.TraceResponse]) -> None:
        super().__init__()
        self._call = call
        self._over = False

    def result(self) -> Trace:
        """The whole trace; what is still to come is read first."""
        while not self._over:
            self._pull()
        return self._state.result()

    def _next_event(self) -> pb.TraceResponse | None:
        return next(self._call, None)

    def _cancel(self) -> None:
        self._call.cancel()


class AsyncTraceStream(_Parser, AsyncItemStream[pb.TraceResponse, TracedToken]):
    """Async iterator over the generated tokens of a trace; `await result()` has all values.

    Leaving the loop early ends the call when the object goes away; `await aclose()` or an
    `async with` block ends it at once.

    Raises:
        StreamBroken: On iteration, when the stream ends without its end event.
        RpcError: On iteration, when the call fails in another way.
    """

    def __init__(self, call: AsyncCall, connect: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._call = call
        self._connect = connect  # raises Unavailable where no server is found
        self._over = False

    async def result(self) -> Trace:
        """The whole trace; what is still to come is read first."""
        while not self._over:
            await self._pull()
        return self._state.result()

    async def _next_event(self) -> pb.TraceResponse | None:
        return await read_event(self._call, self._connect)

    def _cancel(self) -> None:
        self._call.cancel()
