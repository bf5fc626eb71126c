"""Vectors of any number of texts, for the async client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Generic, TypeVar, Unpack, overload

from headstream.client import _embed_requests
from headstream.client._async_item_stream import AsyncItemStream
from headstream.client._embed_answer import EmbedAnswer, IdT
from headstream.client._embed_parser import EmbedParser
from headstream.client._stream_items import StreamItems
from headstream.v1 import embeddings_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from headstream.client._async_connection import AsyncConnection
    from headstream.client._async_exchange import AsyncExchange
    from headstream.client._embed_requests import EmbedOptions
    from headstream.client._inputs import Text

    Exchange = AsyncExchange[pb.EmbedStreamRequest, pb.EmbedStreamResponse]
    Begin = Callable[[], Awaitable[Exchange]]

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
        self.has_read_all = False

    async def send(self, call: Exchange) -> None:
        """The opening, then the texts. Their failure ends it well: those before are answered."""
        if not await call.write(self._opening):
            return
        async for message in self._messages():
            if not await call.write(message):
                return
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
        self.has_read_all = True
        if (message := items.take()) is not None:
            yield message

    def go_on(self) -> None:
        """Some texts were answered."""
        self._answered.set()


class AsyncEmbedStream(EmbedParser[IdT], AsyncItemStream[pb.EmbedStreamResponse, EmbedAnswer[IdT]]):
    """Async iterator over `EmbedAnswer`s: an id and a vector [d], or a `FailedItem`; in any order.

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
        items = StreamItems[IdT](look_ahead)
        sender = _Sender(opening, texts, items)
        super().__init__(items, sender)
        self._begin = begin
        self._send = sender.send
        self._call: Exchange | None = None
        self._sending: asyncio.Task[None] | None = None
        self._over = False

    async def aclose(self) -> None:
        """End the call on the server, if it is still running."""
        await super().aclose()
        if self._sending is not None:
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _next_event(self) -> pb.EmbedStreamResponse | None:
        if self._call is None:
            self._call = await self._begin()
            self._sending = asyncio.create_task(self._send(self._call))
        return await self._call.read()

    async def _finished(self) -> None:
        await super()._finished()
        if self._sender.failure is not None:
            raise self._sender.failure

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
        if self._sending is not None:
            self._sending.cancel()


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
