"""What each layer would predict for one text, and the stream it comes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstream.client import _status
from headstream.client._read_text import read_text
from headstream.client._results import (
    Array,
    Fingerprint,
    Timings,
    TokenTable,
    TopLogits,
    Usage,
)
from headstream.client._tensors import to_array

if TYPE_CHECKING:
    from headstream.v1 import internals_service_pb2 as pb


@dataclass(frozen=True, slots=True, eq=False)
class LogitLens(TokenTable):
    """The tokens of one text, and what the model would predict behind each, if it ended early.

    Those of the last layer are the model's own logits, bit for bit.
    """

    layers: list[int]  # 0 the embedding output, i after layer i
    positions: list[int]  # of the rows
    # [layers, n, V] for "full", [layers, n, k] for ids, TopLogits of [layers, n, k] for "top"
    logits: Array | TopLogits
    usage: Usage
    timings: Timings
    fingerprint: Fingerprint
    request_id: str


class LensState:
    """Fed with the events of a stream, gives the result when the end event has come. No I/O."""

    def __init__(self) -> None:
        self._start: pb.TraceStart | None = None
        self._end: pb.TraceEnd | None = None
        self._rows: dict[tuple[int, int], pb.LogitLensRow] = {}  # by layer and position
        self._num_bytes = 0

    @property
    def reached(self) -> int | None:
        """Rows that have come; None while the stream has not begun."""
        return len(self._rows) if self._start is not None else None

    def feed(self, event: pb.LogitLensResponse) -> None:
        """Take in one event."""
        match event.WhichOneof("event"):
            case "start":
                self._start = event.start
            case "row":
                self._rows[event.row.layer, event.row.position] = event.row
                self._num_bytes += len(event.row.logits.values.data)
            case "end":
                self._end = event.end
            case None:  # an event of a newer contract
                pass

    def result(self) -> LogitLens:
        """The tokens and all rows.

        Raises:
            StreamBroken: The end event, or rows, have not come.
        """
        start, end = self._start, self._end
        complete = end is not None and end.usage.tensor_bytes == self._num_bytes and self._rows
        if start is None or end is None or not complete:
            raise _status.unfinished(len(self._rows))
        layers = sorted({layer for layer, _ in self._rows})
        positions = sorted({position for _, position in self._rows})
        rows = [[self._rows[layer, position] for position in positions] for layer in layers]
        values = np.stack([[to_array(row.logits.values) for row in line] for line in rows])
        logits: Array | TopLogits = values
        if rows[0][0].logits.token_ids:
            token_ids = [[row.logits.token_ids for row in line] for line in rows]
            logits = TopLogits(np.array(token_ids, dtype=np.int64), values)
        return LogitLens(
            layers=layers,
            positions=positions,
            logits=logits,
            **read_text(start, end),
        )
