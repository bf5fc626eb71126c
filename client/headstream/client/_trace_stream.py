"""A trace whose tokens come one by one, for the sync and for the async client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, cast

import grpc
import grpc.aio

from headstream.client import _status
from headstream.client._trace_state import TraceState
from headstream.v1 import internals_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from headstream.client._generation import SyncCall
    from headstream.client._trace import Trace, TracedToken

    AsyncCall = grpc.aio.UnaryStreamCall[pb.TraceRequest, pb.TraceResponse]


class TraceStream:
    """Iterator over the generated tokens of a trace; `result()` has the values of all positions.

    Leaving the loop early ends the call when the object goes away; `close()` or a `with` block
    ends it at once.

    Raises:
        StreamBroken: On iteration, when the stream ends without its end event.
        RpcError: On iteration, when the call fails in another way.
    """

    def __init__(self, call: SyncCall[pb.TraceResponse]) -> None:
        self._call = call
        self._state = TraceState()
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TracedToken:
        while not self._state.tokens:
            if self._over:
                raise StopIteration
            self._pull()
        return self._state.tokens.popleft()

    def result(self) -> Trace:
        """The whole trace; what is still to come is read first."""
        while not self._over:
            self._pull()
        return self._state.result()

    def _pull(self) -> None:
        try:
            event = next(self._call, None)
        except grpc.RpcError as error:
            self._over = True
            failed = cast("_status.FailedCall", error)
            raise _status.from_call(failed, self._state.reached) from error
        if event is not None:
            self._state.feed(event)
            return
        self._over = True
        if not self._state.ended:
            raise _status.unfinished(self._state.reached or 0)

    def close(self) -> None:
        """End the call on the server, if it is still running."""
        self._over = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncTraceStream:
    """Async iterator over the generated tokens of a trace; `await result()` has all values.

    Leaving the loop early ends the call when the object goes away; `await aclose()` or an
    `async with` block ends it at once.

    Raises:
        StreamBroken: On iteration, when the stream ends without its end event.
        RpcError: On iteration, when the call fails in another way.
    """

    def __init__(self, call: AsyncCall, connect: Callable[[], Awaitable[None]]) -> None:
        self._call = call
        self._connect = connect  # raises Unavailable where no server is found
        self._state = TraceState()
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TracedToken:
        while not self._state.tokens:
            if self._over:
                raise StopAsyncIteration
            await self._pull()
        return self._state.tokens.popleft()

    def __del__(self) -> None:
        if not self._over:  # the loop was left: what runs inside gRPC would keep the call alive
            self._call.cancel()

    async def result(self) -> Trace:
        """The whole trace; what is still to come is read first."""
        while not self._over:
            await self._pull()
        return self._state.result()

    async def _pull(self) -> None:
        await self._connect()
        try:
            event = await self._call.read()
        except grpc.aio.AioRpcError as error:
            self._over = True
            raise _status.from_call(error, self._state.reached) from error
        if isinstance(event, pb.TraceResponse):
            self._state.feed(event)
            return
        self._over = True
        if not self._state.ended:
            raise _status.unfinished(self._state.reached or 0)

    async def aclose(self) -> None:
        """End the call on the server, if it is still running."""
        self._over = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
