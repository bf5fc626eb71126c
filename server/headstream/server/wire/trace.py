"""Trace requests, and the events of a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headstream.model.outputs import WireDtype
from headstream.model.site_shapes import SiteShape
from headstream.model.sites import SiteSpec, TraceSpec
from headstream.server.engine.look import Look
from headstream.server.engine.messages import Ready
from headstream.server.engine.stream import Event, SiteEvent, WireTensor
from headstream.server.errors import InvalidRequest
from headstream.server.limits import Limits
from headstream.server.wire.budget import check_message
from headstream.server.wire.fields import check_count, check_int
from headstream.server.wire.inputs import ParsedInput, check_length, parse_input
from headstream.server.wire.looks import FittedLook
from headstream.server.wire.positions import fit_range, parse_range
from headstream.server.wire.sites import find_site, key_bytes, resolve_heads, resolve_layers
from headstream.server.wire.tensors import (
    CHUNK_BYTES,
    ITEM_BYTES,
    cut_rows,
    parse_float_dtype,
    put_tensor,
)
from headstream.v1 import internals_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class TraceCall:
    """A checked request."""

    input: ParsedInput
    sites: tuple[tuple[SiteShape, SiteSpec], ...]
    start: int
    end: int | None
    dtype: WireDtype
    max_new_tokens: int
    max_reply_bytes: int | None
    key_bytes: int  # of a token in a layer
    stacked: bool  # layers together, and tokens with the values before them

    def fit(self, num_tokens: int, limits: Limits) -> FittedLook:
        """The spec and its bytes for an input of so many tokens."""
        check_length("input", num_tokens, limits, new_tokens=self.max_new_tokens)
        length = num_tokens + self.max_new_tokens
        what = "the positions of the input" + (" and of new tokens" if self.max_new_tokens else "")
        start, end = fit_range("positions", self.start, self.end, length, what)
        row_bytes = [self._row_bytes(shape, spec, num_keys=length) for shape, spec in self.sites]
        check_message(max(row_bytes, default=0), limits, "a row of the largest site")
        num_bytes = sum(
            self._bytes(shape, spec, start, end, num_tokens) for shape, spec in self.sites
        )
        spec = TraceSpec(tuple(spec for _, spec in self.sites), start, end, self.dtype)
        keyed = {layer for shape, site in self.sites if not shape.width for layer in site.layers}
        kept = len(keyed) * length * self.key_bytes
        return FittedLook(Look(trace=spec), num_bytes, kept, self.max_new_tokens)

    def _bytes(
        self, shape: SiteShape, spec: SiteSpec, start: int, end: int, num_tokens: int
    ) -> int:
        """Bytes of one site: rows of the input have its keys, generated ones those up to them."""
        read = max(0, min(end, num_tokens) - start)
        keys = range(max(start, num_tokens) + 1, end + 1)  # of each generated row
        if shape.width:
            return (read + len(keys)) * self._row_bytes(shape, spec, num_keys=0) * len(spec.layers)
        all_keys = read * num_tokens + (keys.start + keys.stop - 1) * len(keys) // 2
        return self._row_bytes(shape, spec, num_keys=all_keys) * len(spec.layers)

    def _row_bytes(self, shape: SiteShape, spec: SiteSpec, *, num_keys: int) -> int:
        """Bytes of one row in one layer."""
        return max(1, len(spec.heads)) * (shape.width or num_keys) * ITEM_BYTES[self.dtype]


def parse_trace(request: pb.TraceRequest, ready: Ready, limits: Limits) -> TraceCall:
    """The request, if every field keeps its limits."""
    start, end = parse_range("positions", request.positions)
    return TraceCall(
        input=parse_input("input", request.input, limits),
        sites=_parse_sites("sites", request.sites, ready, limits),
        start=start,
        end=end,
        dtype=parse_float_dtype("dtype", request.dtype),
        max_new_tokens=check_int(
            "max_new_tokens", request.max_new_tokens, 0, limits.max_new_tokens
        ),
        max_reply_bytes=request.max_reply_bytes if request.HasField("max_reply_bytes") else None,
        key_bytes=key_bytes(ready),
        stacked=request.stacked,
    )


def _parse_sites(
    field: str, messages: Sequence[pb.Site], ready: Ready, limits: Limits
) -> tuple[tuple[SiteShape, SiteSpec], ...]:
    check_count(field, messages, 1, limits.max_sites)
    sites: list[tuple[SiteShape, SiteSpec]] = []
    seen: set[tuple[str, int]] = set()
    for i, message in enumerate(messages):
        each = f"{field}[{i}]"
        shape = find_site(f"{each}.name", message.name, ready)
        layers = resolve_layers(f"{each}.layers", message.layers, shape)
        heads = resolve_heads(f"{each}.heads", message.heads, shape)
        for layer in layers:
            if (shape.name, layer) in seen:
                raise InvalidRequest(each, f"{shape.name} of layer {layer} is named twice")
            seen.add((shape.name, layer))
        sites.append((shape, SiteSpec(shape.name, layers, heads)))
    return tuple(sites)


def trace_events(event: Event, *, stacked: bool) -> Iterator[tuple[pb.TraceResponse, int]]:
    """What a step shows, then its token; each message with its bytes of values.

    As much goes in a message as keeps it within 1 MiB, because a message costs far more than the
    row of a layer that is in it; with ``stacked`` also the token.
    """
    reply, num_bytes = pb.TraceResponse(), 0
    for site in event.seen.sites if event.seen is not None else ():
        for part in _cut(site, stacked=stacked):
            if num_bytes and num_bytes + len(part.values.data) > CHUNK_BYTES:
                yield reply, num_bytes
                reply, num_bytes = pb.TraceResponse(), 0
            _put_chunk(reply.values.chunks.add(), part, stacked=stacked)
            num_bytes += len(part.values.data)
    token = event.token
    if num_bytes:
        if token is not None and stacked:
            reply.values.generated_token_id = token.token_id
            token = None
        yield reply, num_bytes
    if token is not None:
        yield pb.TraceResponse(generated_token_id=token.token_id), 0


def _cut(event: SiteEvent, *, stacked: bool) -> Iterator[SiteEvent]:
    """Parts of at most 1 MiB, or of one row of one layer; without ``stacked`` of one layer each."""
    num_layers, *shape = event.values.shape
    size = len(event.values.data) // num_layers
    step = max(1, CHUNK_BYTES // max(1, size)) if stacked else 1
    for first in range(0, num_layers, step):
        layers = event.layers[first : first + step]
        data = event.values.data[first * size : (first + len(layers)) * size]
        if len(data) <= CHUNK_BYTES:
            values = WireTensor(event.values.dtype, (len(layers), *shape), data)
            yield SiteEvent(event.site, layers, event.start, values)
            continue
        for row, part in cut_rows(WireTensor(event.values.dtype, tuple(shape), data)):
            values = WireTensor(part.dtype, (1, *part.shape), part.data)
            yield SiteEvent(event.site, layers, event.start + row, values)


def _put_chunk(chunk: pb.SiteChunk, part: SiteEvent, *, stacked: bool) -> None:
    values = part.values
    chunk.site, chunk.start = part.site, part.start
    if stacked:
        chunk.layers.extend(part.layers)
    else:
        [chunk.layer] = part.layers
        values = WireTensor(values.dtype, values.shape[1:], values.data)
    put_tensor(chunk.values, values)
