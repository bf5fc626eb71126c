"""Attention requests, and the events with their weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from headstream.model.sites import PatternSpec
from headstream.server.engine.look import Look
from headstream.server.engine.messages import Ready
from headstream.server.engine.stream import PatternEvent, WireTensor
from headstream.server.limits import Limits
from headstream.server.wire.budget import check_message
from headstream.server.wire.fields import check_int
from headstream.server.wire.inputs import ParsedInput, check_length, parse_input
from headstream.server.wire.looks import FittedLook
from headstream.server.wire.sites import check_members, key_bytes
from headstream.server.wire.tensors import (
    CHUNK_BYTES,
    ITEM_BYTES,
    parse_float_dtype,
    put_int32,
    put_tensor,
    to_array,
)
from headstream.v1 import internals_service_pb2 as pb

_KEY_BYTES = 4  # of a key that goes with a weight


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """A checked request. ``spec`` has no queries where all are wanted."""

    input: ParsedInput
    spec: PatternSpec
    max_reply_bytes: int | None
    key_bytes: int  # of a token in a layer

    @property
    def heads(self) -> tuple[int, ...]:
        """Heads of the reply: none where they are averaged."""
        return () if self.spec.average_heads or self.spec.rollout else self.spec.heads

    def fit(self, num_tokens: int, limits: Limits) -> FittedLook:
        """The spec and its bytes for an input of so many tokens."""
        check_length("input", num_tokens, limits)
        spec = self.spec
        queries = check_members("queries", spec.queries, 0, num_tokens - 1)
        fitted = PatternSpec(
            layers=spec.layers,
            heads=spec.heads,
            queries=queries or tuple(range(num_tokens)),
            top_k=min(spec.top_k, num_tokens),
            average_heads=spec.average_heads,
            rollout=spec.rollout,
            dtype=spec.dtype,
        )
        weight_bytes = ITEM_BYTES[spec.dtype] + (_KEY_BYTES if spec.top_k else 0)
        row_bytes = (fitted.top_k or num_tokens) * weight_bytes
        check_message(row_bytes, limits, "the weights of one query")
        rows = len(fitted.queries) * max(1, len(self.heads))
        layers = 1 if spec.rollout else len(spec.layers)
        kept = num_tokens * self.key_bytes + (4 * num_tokens**2 if spec.rollout else 0)
        return FittedLook(
            Look(attention=fitted), layers * rows * row_bytes, len(spec.layers) * kept
        )


def parse_attention(request: pb.AttentionRequest, ready: Ready, limits: Limits) -> AttentionCall:
    """The request, if every field keeps its limits."""
    layers = check_members("layers", request.layers, 1, ready.n_layers)
    heads = check_members("heads", request.heads, 0, ready.n_heads - 1)
    return AttentionCall(
        input=parse_input("input", request.input, limits),
        spec=PatternSpec(
            layers=layers or tuple(range(1, ready.n_layers + 1)),
            heads=heads or tuple(range(ready.n_heads)),
            queries=check_members("queries", request.queries, 0, limits.max_model_len - 1),
            top_k=check_int("top_k", request.top_k, 0, limits.max_model_len),
            average_heads=request.average_heads,
            rollout=request.rollout,
            dtype=parse_float_dtype("dtype", request.dtype),
        ),
        max_reply_bytes=request.max_reply_bytes if request.HasField("max_reply_bytes") else None,
        key_bytes=key_bytes(ready),
    )


def pattern_events(
    events: Iterable[PatternEvent], heads: tuple[int, ...]
) -> Iterator[pb.AttentionResponse]:
    """The weights of a step, each message with at most 1 MiB of them, or one row.

    ``heads``: of the weights; none where they are averaged.
    """
    for event in events:
        top_k = event.weights.shape[2] if event.keys else 0
        values = to_array(event.weights)  # [heads, queries, keys] or [.., top_k]
        keys = np.frombuffer(event.keys, "<i4").reshape(values.shape) if top_k else None
        for some_heads, some_queries in _cut(
            values.shape, values.itemsize + _KEY_BYTES * bool(top_k)
        ):
            part = values[some_heads, some_queries]
            reply = pb.AttentionResponse()
            chunk = reply.chunk
            chunk.layer = event.layer
            chunk.heads.extend(heads[some_heads])
            chunk.queries.extend(event.queries[some_queries])
            put_tensor(chunk.weights, WireTensor(event.weights.dtype, part.shape, part.tobytes()))
            if keys is not None:
                put_int32(chunk.keys, keys[some_heads, some_queries])
            yield reply


def _cut(shape: tuple[int, ...], item_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Heads and queries of each message: all heads of some queries, or some heads of one."""
    num_heads, num_queries, num_keys = shape
    rows = max(1, CHUNK_BYTES // (num_keys * item_bytes))
    heads_each = min(num_heads, rows)
    queries_each = max(1, rows // num_heads)
    for query in range(0, num_queries, queries_each):
        for head in range(0, num_heads, heads_each):
            yield slice(head, head + heads_each), slice(query, query + queries_each)
