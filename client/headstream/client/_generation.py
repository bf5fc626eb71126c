"""Running continuations as an iterator, for the sync and for the async client."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from headstream.client import _status
from headstream.client._async_item_stream import AsyncItemStream, read_event
from headstream.client._event_parser import EventParser
from headstream.client._generation_state import GenerationState
from headstream.client._item_stream import ItemStream
from headstream.client._results import Step
from headstream.v1 import logits_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import grpc.aio

    from headstream.client._attempts import Attempts
    from headstream.client._errors import RpcError
    from headstream.client._item_stream import SyncCall

    AsyncCall = grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]


class _Parser(GenerationState, EventParser[pb.GenerateResponse, Step]):
    """What both iterators make of the events."""

    def __init__(self, attempts: Attempts) -> None:
        super().__init__(with_embeddings=attempts.request.HasField("embeddings"))
        self._attempts = attempts

    def _feed(self, event: pb.GenerateResponse) -> None:
        self.feed(event)

    def _take(self) -> Step | None:
        return self.take()

    def _progress(self) -> int | None:
        return self.reached

    def _missing(self) -> RpcError | None:
        return None if self.ended else _status.unfinished(self.reached or 0)

    def _next_request(self, error: RpcError) -> pb.GenerateRequest | None:
        """What to ask for when the call has failed; None: nothing, all has come.

        Raises:
            RpcError: It is the end.
        """
        if self.ended:
            return None
        request = self._attempts.next_request(self, error)
        if request is None:
            raise error
        return request


class Generation(_Parser, ItemStream[pb.GenerateResponse, Step]):
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
        super().__init__(attempts)
        self._begin = begin
        self._call = begin(attempts.request, timeout)
        self._over = False

    def read_texts(self) -> list[str]:
        """Read what is still to come; the text of each continuation."""
        for _ in self:
            pass
        return [each.text for each in self.continuations]

    def _next_event(self) -> pb.GenerateResponse | None:
        return next(self._call, None)

    def _broken(self, error: RpcError) -> None:
        """Begin another call if this one may be taken up."""
        self._over = True
        if (request := self._next_request(error)) is not None:
            time.sleep(self._attempts.pause)
            self._call = self._begin(request, self._call.time_remaining())
            self._over = False

    def _cancel(self) -> None:
        self._call.cancel()


class AsyncGeneration(_Parser, AsyncItemStream[pb.GenerateResponse, Step]):
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
        super().__init__(attempts)
        self._begin = begin
        self._connect = connect  # raises Unavailable where no server is found
        self._call = begin(attempts.request, timeout)
        self._over = False

    async def read_texts(self) -> list[str]:
        """Read what is still to come; the text of each continuation."""
        async for _ in self:
            pass
        return [each.text for each in self.continuations]

    async def _next_event(self) -> pb.GenerateResponse | None:
        return await read_event(self._call, self._connect)

    async def _broken(self, error: RpcError) -> None:
        """Begin another call if this one may be taken up."""
        self._over = True
        if (request := self._next_request(error)) is not None:
            await asyncio.sleep(self._attempts.pause)
            self._call = self._begin(request, self._call.time_remaining())
            self._over = False

    def _cancel(self) -> None:
        self._call.cancel()
