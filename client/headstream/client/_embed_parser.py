"""The answers of an `embed_stream`, the same for both clients. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol

from headstream.client import _status
from headstream.client._embed_answer import EmbedAnswer, IdT
from headstream.client._event_parser import EventParser
from headstream.v1 import embeddings_service_pb2 as pb

if TYPE_CHECKING:
    from headstream.client._errors import RpcError
    from headstream.client._results import Fingerprint
    from headstream.client._stream_items import StreamItems


class TextSender(Protocol):
    """What reads the texts and sends them."""

    failure: Exception | None  # of the texts
    has_read_all: bool

    def go_on(self) -> None:
        """Some texts were answered."""
        ...


class EmbedParser(EventParser[pb.EmbedStreamResponse, EmbedAnswer[IdT]], Generic[IdT]):
    """What both streams make of the answers."""

    def __init__(self, items: StreamItems[IdT], sender: TextSender) -> None:
        self._items = items
        self._sender = sender
        self._ready: deque[EmbedAnswer[IdT]] = deque()

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Which numbers these are; None before the first answer."""
        return self._items.fingerprint

    @property
    def unanswered(self) -> list[IdT]:
        """The ids of the texts that were read and not answered."""
        return self._items.unanswered

    def _feed(self, event: pb.EmbedStreamResponse) -> None:
        self._ready.extend(self._items.feed(event))
        self._sender.go_on()

    def _take(self) -> EmbedAnswer[IdT] | None:
        return self._ready.popleft() if self._ready else None

    def _progress(self) -> int | None:
        return self._items.num_answered or None

    def _missing(self) -> RpcError | None:
        if self._sender.failure is not None:  # that is told instead
            return None
        if self._items.unanswered or not self._sender.has_read_all:
            return _status.unfinished(self._items.num_answered, "an answer to every text")
        return None
