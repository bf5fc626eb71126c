"""Vectors of any number of texts, for the sync client."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Unpack, overload

from headstream.client import _embed_requests
from headstream.client._embed_answer import EmbedAnswer, IdT
from headstream.client._embed_parser import EmbedParser
from headstream.client._item_stream import ItemStream
from headstream.client._stream_items import StreamItems
from headstream.v1 import embeddings_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from headstream.client._connection import Connection
    from headstream.client._embed_requests import EmbedOptions
    from headstream.client._inputs import Text
    from headstream.client._item_stream import SyncCall

    Call = SyncCall[pb.EmbedStreamResponse]
    Begin = Callable[[Iterator[pb.EmbedStreamRequest]], Call]


class _Sender(Generic[IdT]):
    """What gRPC takes messages from, in a thread of its own; it reads the texts as they can go."""

    def __init__(
        self,
        opening: pb.EmbedStreamRequest,
        texts: Iterable[Text] | Iterable[tuple[IdT, Text]],
        items: StreamItems[IdT],
    ) -> None:
        self._opening = opening
        self._texts = texts
        self._items = items
        self._changed = threading.Condition()
        self._over = False
        self.failure: Exception | None = None  # of the texts
        self.has_read_all = False

    def messages(self) -> Iterator[pb.EmbedStreamRequest]:
        """The opening, then the texts. Their failure ends it well: those before are answered."""
        yield self._opening
        items = self._items
        try:
            for text in self._texts:
                if not self._wait_for_room():
                    return
                items.add(text)
                if items.is_due and (message := items.take()) is not None:
                    yield message
        except Exception as error:
            self.failure = error
        self.has_read_all = True
        if (message := items.take()) is not None:
            yield message

    def _wait_for_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._items.has_room)
            return not self._over

    def go_on(self) -> None:
        """Some texts were answered."""
        with self._changed:
            self._changed.notify()

    def stop(self) -> None:
        """Read no more texts."""
        with self._changed:
            self._over = True
            self._changed.notify()


class EmbedStream(EmbedParser[IdT], ItemStream[pb.EmbedStreamResponse, EmbedAnswer[IdT]]):
    """Iterator over `EmbedAnswer`s: an id and a vector [d], or a `FailedItem`; in any order.

    The call begins with the first iteration. Leaving the loop early ends it when the object goes
    away; `close()` or a `with` block ends it at once.

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
        texts: Iterable[Text] | Iterable[tuple[IdT, Text]],
        look_ahead: int,
    ) -> None:
        items = StreamItems[IdT](look_ahead)
        sender = _Sender(opening, texts, items)
        super().__init__(items, sender)
        self._begin: Callable[[], Call] = lambda: begin(sender.messages())
        self._stop_sending = sender.stop
        self._call: Call | None = None
        self._over = False

    def _next_event(self) -> pb.EmbedStreamResponse | None:
        if self._call is None:
            self._call = self._begin()
        return next(self._call, None)

    def _finished(self) -> None:
        super()._finished()
        if self._sender.failure is not None:
            raise self._sender.failure

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()  # first: else the sender's end could pass for that of the texts
        self._stop_sending()


class EmbedStreaming:
    """The part of the client that embeds any number of texts."""

    _rpc: Connection

    @overload
    def embed_stream(  # type: ignore[overload-overlap]  # no chat is a tuple of an id and a text
        self,
        texts: Iterable[tuple[IdT, Text]],
        *,
        model: str = ...,
        look_ahead: int = ...,
        timeout: float | None = ...,
        **options: Unpack[EmbedOptions],
    ) -> EmbedStream[IdT]: ...

    @overload
    def embed_stream(
        self,
        texts: Iterable[Text],
        *,
        model: str = ...,
        look_ahead: int = ...,
        timeout: float | None = ...,
        **options: Unpack[EmbedOptions],
    ) -> EmbedStream[int]: ...

    def embed_stream(
        self,
        texts: Iterable[Text] | Iterable[tuple[IdT, Text]],
        *,
        model: str = "",
        look_ahead: int = 512,
        timeout: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> EmbedStream[IdT] | EmbedStream[int]:
        """Embed any number of texts, of which few are in memory at a time.

            for number, vector in client.embed_stream(open("texts.txt")):
                if isinstance(vector, FailedItem): ...

        Args:
            texts: Any iterable; each is a string, token ids or a chat, or a tuple of an id of your
                own and one of these. A thread of gRPC's reads them, as they can be sent; they must
                not wait for answers. While others are under way they are gathered into messages,
                so where they pause the last ones wait for the next.
            model: Name of the model; empty for the server's first.
            look_ahead: Most texts that are read and not answered yet.
            timeout: Seconds until all must be answered; None for as long as it takes. The server
                ends a stream that brings no text for long (its `session_idle`).
            options: How vectors are made; those of `embed`.

        Returns:
            An iterator of pairs, in the order of the answers, which is any: the text's id, or its
            number from 0; and its vector [d], or why it could not be embedded. A pair tells also
            whether its text was cut (`truncated`) and how its vector was made (`result`).

        Raises:
            TypeError: `texts` is a string.
            ValueError: An argument is an unknown word, there are two prompts, or `look_ahead` is
                below 1.
        """
        wanted = _embed_requests.embed_options(**options)
        opening = _embed_requests.stream_opening(texts, wanted, look_ahead, model=model)
        rpc = self._rpc
        return EmbedStream[IdT](
            lambda messages: rpc.embed_stream(messages, timeout), opening, texts, look_ahead
        )
