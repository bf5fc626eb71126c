"""Vectors of any number of texts, for the sync client."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, Self, Unpack, cast, overload

import grpc

from headstream.client import _embed_requests, _status
from headstream.client._stream_items import IdT, StreamItems
from headstream.v1 import embeddings_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from headstream.client._connection import Connection
    from headstream.client._embed_requests import EmbedOptions
    from headstream.client._errors import FailedItem
    from headstream.client._generation import SyncCall
    from headstream.client._inputs import Text
    from headstream.client._results import Array, Fingerprint

    Begin = Callable[[Iterator[pb.EmbedStreamRequest]], SyncCall[pb.EmbedStreamResponse]]


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


class EmbedStream(Generic[IdT]):
    """Iterator over pairs of an id and a vector [d], or a `FailedItem`, in any order.

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
        self._begin = begin
        self._items = StreamItems[IdT](look_ahead)
        self._sender = _Sender(opening, texts, self._items)
        self._call: SyncCall[pb.EmbedStreamResponse] | None = None
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

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[IdT, Array | FailedItem]:
        while not self._ready:
            if self._over:
                raise StopIteration
            self._pull()
        return self._ready.popleft()

    def _pull(self) -> None:
        try:
            if self._call is None:
                self._call = self._begin(self._sender.messages())
            reply = next(self._call, None)
        except grpc.RpcError as error:
            self.close()
            failed = cast("_status.FailedCall", error)
            raise _status.from_call(failed, self._items.num_answered or None) from error
        if reply is not None:
            self._ready.extend(self._items.feed(reply))
            self._sender.go_on()
            return
        self.close()
        if self._sender.failure is not None:
            raise self._sender.failure
        if self._items.unanswered:
            raise _status.unfinished(self._items.num_answered, "an answer to every text")

    def close(self) -> None:
        """End the call on the server, if it is still running."""
        self._over = True
        if self._call is not None:
            self._call.cancel()  # first: else the sender's end could pass for that of the texts
        self._sender.stop()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
                not wait for answers.
            model: Name of the model; empty for the server's first.
            look_ahead: Most texts that are read and not answered yet.
            timeout: Seconds until all must be answered; None for as long as it takes. The server
                ends a stream that brings no text for long (its `session_idle`).
            options: How vectors are made; those of `embed`.

        Returns:
            An iterator of pairs, in the order of the answers, which is any: the text's id, or its
            number from 0; and its vector [d], or why it could not be embedded.

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
