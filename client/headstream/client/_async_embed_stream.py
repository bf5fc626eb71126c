"""Vectors of any number of texts, for the async client."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Generic, Self, TypeVar, Unpack, overload

import grpc.aio

from headstream.client import _embed_requests, _status
from headstream.client._stream_items import IdT, StreamItems
from headstream.v1 import embeddings_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from types import TracebackType

    from headstream.client._async_connection import AsyncConnection
    from headstream.client._embed_requests import EmbedOptions
    from headstream.client._errors import FailedItem
    from headstream.client._inputs import Text
    from headstream.client._results import Array, Fingerprint

    BidiCall = grpc.aio.StreamStreamCall[pb.EmbedStreamRequest, pb.EmbedStreamResponse]
    Begin = Callable[[], Awaitable[BidiCall]]

ItemT = TypeVar("ItemT")


class _Sender(Generic[IdT]):
    """Reads the texts as they can go, and sends them."""

    def __init__(
        self,
        opening: pb.EmbedStreamRequest,
        texts: AsyncIterator[Text | tuple[IdT, Text]],
        items: StreamItems[IdT],
    ) -> None:
        self._opening = opening
        self._texts = texts
        self._items = items
        self._answered = asyncio.Event()
        self.failure: Exception | None = None  # of the texts

    async def send(self, call: BidiCall) -> None:
        """The opening, then the texts. Their failure ends it well: those before are answered."""
        # If the call has ended, its reader says how.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(self._opening)
            async for message in self._messages():
                await call.write(message)
            await call.done_writing()

    async def _messages(self) -> AsyncIterator[pb.EmbedStreamRequest]:
        items = self._items
        try:
            async for text in self._texts:
                while not items.has_room:
                    self._answered.clear()
                    await self._answered.wait()
                items.add(text)
                if items.is_due and (message := items.take()) is not None:
                    yield message
        except Exception as error:
            self.failure = error
        if (message := items.take()) is not None:
            yield message

    def go_on(self) -> None:
        """Some texts were answered."""
        self._answered.set()


class AsyncEmbedStream(Generic[IdT]):
    """Async iterator over pairs of an id and a vector [d], or a `FailedItem`, in any order.

    The call begins with the first iteration. Leaving the loop early ends it when the object goes
    away; `await aclose()` or an `async with` block ends it at once.

    Raises:
        StreamBroken: On iteration, when the stream ends early; `index` counts the answers that
            came, and `unanswered` has the ids of the texts that were read in vain.
        RpcError: On iteration, when the call fails in another way.
        Exception: On iteration, behind the answers: what reading `texts` has raised.
    """

    def __init__(
        self,
        begin: Begin,
        opening: pb.EmbedStreamRequest,
        texts: AsyncIterator[Text | tuple[IdT, Text]],
        look_ahead: int,
    ) -> None:
        self._begin = begin
        self._items = StreamItems[IdT](look_ahead)
        self._sender = _Sender(opening, texts, self._items)
        self._call: BidiCall | None = None
        self._sending: asyncio.Task[None] | None = None
        self._ready: deque[tuple[IdT, Array | FailedItem]] = deque()
        self._over = False

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Which numbers these are; None before the first answer."""
        return self._items.fingerprint

    @property
    def unanswered(self) -> list[IdT]:
        """The ids of the texts that were read and not answered."""
        return self._items.unanswered

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[IdT, Array | FailedItem]:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            await self._pull()
        return self._ready.popleft()

    async def _pull(self) -> None:
        if self._call is None:
            self._call = await self._begin()
            self._sending = asyncio.create_task(self._sender.send(self._call))
        try:
            reply = await self._call.read()
        except grpc.aio.AioRpcError as error:
            await self.aclose()
            raise _status.from_call(error, self._items.num_answered or None) from error
        if isinstance(reply, pb.EmbedStreamResponse):
            self._ready.extend(self._items.feed(reply))
            self._sender.go_on()
            return
        await self.aclose()
        if self._sender.failure is not None:
            raise self._sender.failure
        if self._items.unanswered:
            raise _status.unfinished(self._items.num_answered, "an answer to every text")

    async def aclose(self) -> None:
        """End the call on the server, if it is still running."""
        self._end()
        if self._sending is not None:
            await asyncio.gather(self._sending, return_exceptions=True)

    def _end(self) -> None:
        self._over = True
        if self._call is not None:
            self._call.cancel()
        if self._sending is not None:
            self._sending.cancel()

    def __del__(self) -> None:
        if not self._over:
            self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class AsyncEmbedStreaming:
    """The part of the client that embeds any number of texts."""

    _rpc: AsyncConnection

    @overload
    def embed_stream(  # type: ignore[overload-overlap]  # no chat is a tuple of an id and a text
        self,
        texts: Iterable[tuple[IdT, Text]] | AsyncIterable[tuple[IdT, Text]],
        *,
        model: str = ...,
        look_ahead: int = ...,
        timeout: float | None = ...,
        **options: Unpack[EmbedOptions],
    ) -> AsyncEmbedStream[IdT]: ...

    @overload
    def embed_stream(
        self,
        texts: Iterable[Text] | AsyncIterable[Text],
        *,
        model: str = ...,
        look_ahead: int = ...,
        timeout: float | None = ...,
        **options: Unpack[EmbedOptions],
    ) -> AsyncEmbedStream[int]: ...

    def embed_stream(
        self,
        texts: Iterable[Text]
        | Iterable[tuple[IdT, Text]]
        | AsyncIterable[Text]
        | AsyncIterable[tuple[IdT, Text]],
        *,
        model: str = "",
        look_ahead: int = 512,
        timeout: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> AsyncEmbedStream[IdT] | AsyncEmbedStream[int]:
        """Embed any number of texts, of which few are in memory at a time.

        As `Client.embed_stream`; `texts` may be an async iterable too, and is read by a task.
        """
        wanted = _embed_requests.embed_options(**options)
        opening = _embed_requests.stream_opening(texts, wanted, look_ahead, model=model)
        rpc = self._rpc
        return AsyncEmbedStream[IdT](
            lambda: rpc.embed_stream(timeout), opening, _each(texts), look_ahead
        )


async def _each(items: Iterable[ItemT] | AsyncIterable[ItemT]) -> AsyncIterator[ItemT]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
