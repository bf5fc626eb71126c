"""Answers of a decoding session put together from their parts, and the rows in them. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from headstream.client._results import Array, TopLogits
from headstream.client._tensors import byte_length, to_array
from headstream.v1 import logits_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

RowsT = TypeVar("RowsT")
"""Rows of logits, [k, V] or [k, n] for n token ids, or `TopLogits` of them; or a single one."""


@dataclass(slots=True)
class Answer:
    """The answer to one move."""

    first: pb.DecodeResponse
    logits: list[pb.Logits] = field(default_factory=list[pb.Logits])
    chunks: dict[int, bytearray] = field(default_factory=dict[int, bytearray])  # by row

    def add(self, part: pb.DecodeResponse) -> None:
        """Take in the next part."""
        for row in part.logits:
            if not row.values.data:
                self.chunks[len(self.logits)] = bytearray()
            self.logits.append(row)
        if part.chunk:
            self.chunks[len(self.logits) - 1] += part.chunk

    def values(self) -> Array:
        """All rows of the move, which has some: [k, V] or [k, n].

        Raises:
            ValueError: Bytes of a row are missing.
        """
        return np.stack([self._row(i, row) for i, row in enumerate(self.logits)])

    def top_logits(self) -> TopLogits:
        """The same with the ids of the values."""
        token_ids = [row.token_ids for row in self.logits]
        return TopLogits(np.array(token_ids, dtype=np.int64), self.values())

    def _row(self, index: int, row: pb.Logits) -> Array:
        data = self.chunks.get(index)
        if data is not None and len(data) != byte_length(row.values):
            raise ValueError(f"row {index} has {len(data)} of {byte_length(row.values)} bytes")
        return to_array(row.values, data)


class Answers:
    """The answers of a session, by the number of their move."""

    def __init__(self) -> None:
        self.num_complete = 0
        self._open: dict[int, Answer] = {}

    def feed(self, part: pb.DecodeResponse) -> tuple[int, Answer] | None:
        """Take in a part; the number and the answer that it completes."""
        answer = self._open.setdefault(part.id, Answer(part))
        answer.add(part)
        if part.more:
            return None
        self.num_complete += 1
        return part.id, self._open.pop(part.id)


@dataclass(frozen=True, slots=True)
class RowKind(Generic[RowsT]):
    """What rows of logits are in Python."""

    rows: Callable[[Answer], RowsT]  # of an answer
    row: Callable[[RowsT, int], RowsT]  # one of several


def _array_row(rows: Array, index: int) -> Array:
    row: Array = rows[index]
    return row


def _top_row(rows: TopLogits, index: int) -> TopLogits:
    return TopLogits(rows.token_ids[index], rows.values[index])


ARRAYS: RowKind[Array] = RowKind(Answer.values, _array_row)
TOP_LOGITS: RowKind[TopLogits] = RowKind(Answer.top_logits, _top_row)
