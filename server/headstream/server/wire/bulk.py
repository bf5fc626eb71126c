"""A message with a large field, whose bytes are copied once on their way to gRPC.

protobuf copies them three times: into the message, out of it, and into a bytes object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

BULK_BYTES = 1 << 16
"""Below so many bytes of a field an ordinary message is quicker."""

_LENGTH_DELIMITED = 2  # the wire type of bytes and of messages

MessageT = TypeVar("MessageT", bound=Message)


class Bulk(Generic[MessageT]):
    """A message in parts; serialized, it is what the whole would be, large field last."""

    def __init__(
        self, whole: MessageT, number: int, inner: Sequence[tuple[Message, int]], data: bytes
    ) -> None:
        """Nothing that is given here is set in what it belongs to.

        Args:
            whole: The message, without its field ``number``.
            number: A field of it: the first of ``inner``, or the bytes.
            inner: Messages within each other, each with the number of the field that goes on.
            data: What the last of these fields holds.
        """
        self.whole = whole
        self._levels: tuple[tuple[Message, int], ...] = ((whole, number), *inner)
        self._data = data

    def SerializeToString(self) -> bytes:  # noqa: N802 - as messages name it
        """The bytes on the wire."""
        size = len(self._data)
        parts = [self._data]
        for message, number in reversed(self._levels):
            head = _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)
            parts.append(message.SerializeToString() + head)
            size += len(parts[-1])
        return b"".join(reversed(parts))


def to_message(reply: MessageT | Bulk[MessageT]) -> MessageT:
    """One message of what may be in parts."""
    if isinstance(reply, Bulk):
        return type(reply.whole).FromString(reply.SerializeToString())
    return reply


def serialize(reply: Any) -> bytes:  # Any: gRPC's types know one type of message a method
    """The bytes on the wire of a message, or of one in parts."""
    data: bytes = reply.SerializeToString()
    return data


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; all but the last have the highest bit set."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
