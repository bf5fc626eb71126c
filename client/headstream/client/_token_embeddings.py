"""An EmbedTokens stream put together: events in, one result out. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstream.client import _status
from headstream.client._read_text import read_text
from headstream.client._results import TokenEmbeddings
from headstream.client._tensors import to_array
from headstream.v1 import embeddings_service_pb2 as pb

if TYPE_CHECKING:
    from headstream.client._results import Array


class TokenEmbeddingsState:
    """Fed with the events of a stream, gives the result when the end event has come."""

    def __init__(self) -> None:
        self._start: pb.EmbedTokensStart | None = None
        self._end: pb.EmbedTokensEnd | None = None
        self._vectors: Array | None = None  # [layers, n, d], from the first chunk on
        self._rows = 0

    @property
    def reached(self) -> int | None:
        """Rows that have come, over all layers; None while the stream has not begun."""
        return self._rows if self._start is not None else None

    def feed(self, event: pb.EmbedTokensResponse) -> None:
        """Take in one event."""
        match event.WhichOneof("event"):
            case "start":
                self._start = event.start
            case "chunk":
                self._add(event.chunk)
            case "end":
                self._end = event.end
            case None:  # an event of a newer contract
                pass

    def result(self) -> TokenEmbeddings:
        """The tokens and all their vectors.

        Raises:
            StreamBroken: The end event, or rows, have not come.
        """
        start, end, vectors = self._start, self._end, self._vectors
        if start is None or end is None or vectors is None:
            raise _status.unfinished(self._rows)
        if self._rows < vectors.shape[0] * vectors.shape[1]:
            raise _status.unfinished(self._rows)
        return TokenEmbeddings(
            layers=list(start.layers),
            vectors=vectors,
            **read_text(start, end),
        )

    def _add(self, chunk: pb.EmbedTokensChunk) -> None:
        assert self._start is not None, "a chunk came before the start event"
        rows = to_array(chunk.rows)  # [rows, d]
        if self._vectors is None:
            shape = (len(self._start.layers), len(self._start.tokens.ids), self._start.dimensions)
            self._vectors = np.empty(shape, dtype=rows.dtype)
        self._vectors[chunk.layer_index, chunk.start : chunk.start + len(rows)] = rows
        self._rows += len(rows)
