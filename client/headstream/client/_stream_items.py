"""The texts of an `embed_stream` between their reading and their answers. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, cast

from headstream.client import _replies
from headstream.client._embed_answer import EmbedAnswer, IdT
from headstream.client._errors import FailedItem
from headstream.client._inputs import text_input
from headstream.client._text_embedding import read_result
from headstream.v1 import embeddings_service_pb2 as pb

if TYPE_CHECKING:
    from headstream.client._inputs import Text
    from headstream.client._results import Fingerprint

BATCH_ITEMS = 64
BATCH_BYTES = 256 * 1024
MAX_ITEM_BYTES = 3 * 1024 * 1024
"""Longer ones could not be sent: a message has 4 MiB. They fail here, alone."""


class StreamItems(Generic[IdT]):
    """Texts are added one by one, taken out in messages, and gone when they are answered.

    One thread may add and take while another feeds answers.
    """

    def __init__(self, look_ahead: int) -> None:
        self._look_ahead = look_ahead
        self._count = 0  # texts read
        # The caller's id, and what was wrong with the text before it was sent.
        self._unanswered: dict[int, tuple[IdT, FailedItem | None]] = {}
        self._message = pb.EmbedStreamRequest()
        self._message_bytes = 0
        self.num_answered = 0
        self.fingerprint: Fingerprint | None = None

    @property
    def has_room(self) -> bool:
        """Whether another text may be read."""
        return len(self._unanswered) < self._look_ahead

    @property
    def unanswered(self) -> list[IdT]:
        """The ids of the texts that were read and not answered."""
        return [own_id for own_id, _ in self._unanswered.copy().values()]

    def add(self, text: Text | tuple[IdT, Text]) -> None:
        """A text, or its id and itself. One that cannot be sent goes as an empty item."""
        number = self._count
        self._count += 1
        own_id, content = split(text, number)
        item, failed = pb.EmbedStreamItem(id=number), None
        try:
            item.item.input.CopyFrom(text_input(content))
            if item.ByteSize() > MAX_ITEM_BYTES:
                what = f"takes {item.ByteSize()} bytes; at most {MAX_ITEM_BYTES} can be sent"
                failed = FailedItem(number, "ITEM_TOO_LARGE", what)
        except (TypeError, ValueError) as error:
            failed = FailedItem(number, "INVALID_ITEM", str(error))
        if failed is not None:
            item = pb.EmbedStreamItem(id=number, item=pb.EmbedInput())
        self._unanswered[number] = own_id, failed
        self._message.items.append(item)
        self._message_bytes += item.ByteSize()

    @property
    def is_due(self) -> bool:
        """Whether the message should be sent: the more is under way, the more it gathers."""
        size = len(self._message.items)
        under_way = len(self._unanswered) - size
        return size > 0 and (
            size >= min(BATCH_ITEMS, max(1, under_way))
            or self._message_bytes >= BATCH_BYTES
            or not self.has_room
        )

    def take(self) -> pb.EmbedStreamRequest | None:
        """What has been added since; None: nothing."""
        message = self._message
        if not message.items:
            return None
        self._message, self._message_bytes = pb.EmbedStreamRequest(), 0
        return message

    def feed(self, reply: pb.EmbedStreamResponse) -> list[EmbedAnswer[IdT]]:
        """The answers of a message, with the caller's ids."""
        if reply.HasField("fingerprint"):
            self.fingerprint = _replies.fingerprint(reply.fingerprint)
        self.num_answered += len(reply.answers)
        return [self._answer(answer) for answer in reply.answers]

    def _answer(self, answer: pb.EmbedStreamAnswer) -> EmbedAnswer[IdT]:
        own_id, failed = self._unanswered.pop(answer.id)
        if failed is not None:
            return EmbedAnswer(own_id, failed)
        return EmbedAnswer(own_id, read_result(answer.id, answer.result))


def split(text: Text | tuple[IdT, Text], number: int) -> tuple[IdT, Text]:
    """The id of a text and itself; its number where it has no id.

    A tuple of two is an id and a text, unless it is two token ids or two messages of a chat.
    """
    if isinstance(text, tuple) and len(text) == 2 and not isinstance(text[1], int | Mapping):
        own_id, content = cast("tuple[Any, Any]", text)
        return own_id, content
    return cast("IdT", number), cast("Text", text)
