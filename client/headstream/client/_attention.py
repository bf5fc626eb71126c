"""Attention weights of one text, and the stream they come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstream.client import _status
from headstream.client._read_text import read_text
from headstream.client._results import Array, Fingerprint, Timings, TokenTable, Usage
from headstream.client._tensors import to_array

if TYPE_CHECKING:
    from headstream.v1 import internals_service_pb2 as pb


@dataclass(frozen=True, slots=True, eq=False)
class AttentionWeights(TokenTable):
    """The tokens of one text, and how much each looks at which others.

    Every row sums to one over all keys; keys that the model does not see weigh exactly zero.
    """

    layers: list[int]  # [0] of a rollout
    heads: list[int]  # empty where they are averaged
    queries: list[int]  # positions of the tokens that look
    weights: Array  # [layers, heads or 1, queries, n], or [.., k] with `top_k`, largest first
    keys: Array | None  # with `top_k`: positions of the tokens looked at, int32, of that shape
    usage: Usage
    timings: Timings
    fingerprint: Fingerprint
    request_id: str

    def pattern(self, layer: int, head: int | None = None) -> Array:
        """The weights of a head, [queries, n] or [queries, k]; no head where they are averaged.

        Raises:
            ValueError: They were not asked for.
        """
        row = 0 if head is None and len(self.heads) < 2 else self.heads.index(head)  # type: ignore[arg-type]
        weights: Array = self.weights[self.layers.index(layer), row]
        return weights


class AttentionState:
    """Fed with the events of a stream, gives the result when the end event has come. No I/O."""

    def __init__(self) -> None:
        self._start: pb.TraceStart | None = None
        self._end: pb.TraceEnd | None = None
        self._chunks: list[pb.AttentionChunk] = []
        self._num_bytes = 0

    @property
    def reached(self) -> int | None:
        """Bytes of weights that have come; None while the stream has not begun."""
        return self._num_bytes if self._start is not None else None

    def feed(self, event: pb.AttentionResponse) -> None:
        """Take in one event."""
        match event.WhichOneof("event"):
            case "start":
                self._start = event.start
            case "chunk":
                self._chunks.append(event.chunk)
                self._num_bytes += len(event.chunk.weights.data) + len(event.chunk.keys.data)
            case "end":
                self._end = event.end
            case None:  # an event of a newer contract
                pass

    def result(self) -> AttentionWeights:
        """The tokens and all weights.

        Raises:
            StreamBroken: The end event, or weights, have not come.
        """
        start, end, chunks = self._start, self._end, self._chunks
        complete = end is not None and end.usage.tensor_bytes == self._num_bytes and chunks
        if start is None or end is None or not complete:
            raise _status.unfinished(self._num_bytes)
        layers = sorted({chunk.layer for chunk in chunks})
        heads = sorted({head for chunk in chunks for head in chunk.heads})
        queries = sorted({query for chunk in chunks for query in chunk.queries})
        shape = (len(layers), max(1, len(heads)), len(queries), chunks[0].weights.shape[-1])
        weights: Array = np.empty(shape, to_array(chunks[0].weights).dtype)
        keys: Array | None = np.empty(shape, np.int32) if chunks[0].HasField("keys") else None
        for chunk in chunks:
            layer = layers.index(chunk.layer)
            rows = np.ix_(
                [layer],
                [heads.index(head) for head in chunk.heads] or [0],
                [queries.index(query) for query in chunk.queries],
            )
            weights[rows] = to_array(chunk.weights)
            if keys is not None:
                keys[rows] = to_array(chunk.keys)
        return AttentionWeights(
            layers=layers,
            heads=heads,
            queries=queries,
            weights=weights,
            keys=keys,
            **read_text(start, end),
        )
