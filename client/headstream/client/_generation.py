"""Running continuations as an iterator, for the sync and for the async client."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, cast

import grpc
import grpc.aio

from headstream.client import _errors as errors
from headstream.client import _status
from headstream.client._generation_state import GenerationState
from headstream.v1 import logits_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType

    from headstream.client._attempts import Attempts
    from headstream.client._results import Step

    AsyncCall = grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]

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


class Generation(GenerationState):
    """Iterator over the steps of a continuation, or several; its attributes tell about the whole.

    The call has begun when this object exists. Leaving the loop early ends it on the server when
    the object goes away, as it does in `for step in client.generate(...)`; where a name still
    holds it, `close()` or a `with` block ends it at once.

    Raises:
        StreamBroken: On iteration, when the stream ends without its end event; `index` says where.
        NotResumable: On iteration, when such a stream cannot be taken up as was asked.
        RpcError: On iteration, when the call fails in another way.
    """

    def __init__(
        self,
        begin: Callable[[pb.GenerateRequest, float | None], SyncCall[pb.GenerateResponse]],
        attempts: Attempts,
        timeout: float | None,
    ) -> None:
        super().__init__(with_embeddings=attempts.request.HasField("embeddings"))
        self._begin = begin
        self._attempts = attempts
        self._call = begin(attempts.request, timeout)
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        while (step := self.take()) is None:
            if self._over:
                raise StopIteration
            self._pull()
        return step

    def read_texts(self) -> list[str]:
        """Read what is still to come; the text of each continuation."""
        for _ in self:
            pass
        return [each.text for each in self.continuations]

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

    def _pull(self) -> None:
        try:
            self.feed(next(self._call))
        except StopIteration:
            self._go_on(_status.unfinished(self.reached or 0), None)
        except grpc.RpcError as error:
            self._go_on(_status.from_call(cast("_status.FailedCall", error), self.reached), error)
        except errors.NotResumable:
            self.close()
            raise

    def _go_on(self, error: errors.RpcError, cause: Exception | None) -> None:
        """The call is over: begin another if the stream broke and may be taken up."""
        self._over = True
        if self.ended:
            return
        request = self._attempts.next_request(self, error)
        if request is None:
            raise error from cause
        time.sleep(self._attempts.pause)
        self._call = self._begin(request, self._call.time_remaining())
        self._over = False


class AsyncGeneration(GenerationState):
    """Async iterator over the steps of a continuation, or several; its attributes tell the whole.

    The call has begun when this object exists. Leaving the loop early ends it on the server when
    the object goes away; `await aclose()` or an `async with` block ends it at once.

    Raises:
        StreamBroken: On iteration, when the stream ends without its end event; `index` says where.
        NotResumable: On iteration, when such a stream cannot be taken up as was asked.
        RpcError: On iteration, when the call fails in another way.
    """

    def __init__(
        self,
        begin: Callable[[pb.GenerateRequest, float | None], AsyncCall],
        connect: Callable[[], Awaitable[None]],
        attempts: Attempts,
        timeout: float | None,
    ) -> None:
        super().__init__(with_embeddings=attempts.request.HasField("embeddings"))
        self._begin = begin
        self._connect = connect  # raises Unavailable where no server is found
        self._attempts = attempts
        self._call = begin(attempts.request, timeout)
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        while (step := self.take()) is None:
            if self._over:
                raise StopAsyncIteration
            await self._pull()
        return step

    def __del__(self) -> None:
        if not self._over:  # the loop was left: what runs inside gRPC would keep the call alive
            self._call.cancel()

    async def read_texts(self) -> list[str]:
        """Read what is still to come; the text of each continuation."""
        async for _ in self:
            pass
        return [each.text for each in self.continuations]

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

    async def _pull(self) -> None:
        await self._connect()
        try:
            event = await self._call.read()
            if isinstance(event, pb.GenerateResponse):
                self.feed(event)
            else:
                await self._go_on(_status.unfinished(self.reached or 0), None)
        except grpc.aio.AioRpcError as error:
            await self._go_on(_status.from_call(error, self.reached), error)
        except errors.NotResumable:
            await self.aclose()
            raise

    async def _go_on(self, error: errors.RpcError, cause: Exception | None) -> None:
        """The call is over: begin another if the stream broke and may be taken up."""
        self._over = True
        if self.ended:
            return
        request = self._attempts.next_request(self, error)
        if request is None:
            raise error from cause
        await asyncio.sleep(self._attempts.pause)
        self._call = self._begin(request, self._call.time_remaining())
        self._over = False
