"""What a scripted engine shows of the inside of a model: numbers that tell where they are from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from front_values import float_tensor, make_event
from headstream.model.sites import LensSpec, PatternSpec, SiteSpec, TraceSpec
from headstream.server.engine.look import Look
from headstream.server.engine.messages import Ready
from headstream.server.engine.stream import (
    LensEvent,
    PatternEvent,
    SeenEvent,
    SequenceStream,
    SiteEvent,
    TokenEvent,
)
from headstream.server.wire.sites import site_shapes


def play_look(
    stream: SequenceStream, look: Look, length: int, new_tokens: int, ready: Ready
) -> None:
    """The prompt in two chunks, then token by token."""
    half = (length + 1) // 2
    for start, end in ((0, half), (half, length)):
        token = TokenEvent(0, 40, None, None, ()) if new_tokens and end == length else None
        stream.put(make_event(seen=_seen(look, start, end, length, ready), token=token))
    for index in range(new_tokens):
        position = length + index
        last = index + 1 == new_tokens
        token = None if last else TokenEvent(index + 1, 41 + index, None, None, ())
        seen = _seen(look, position, position + 1, length, ready)
        stream.put(make_event(seen=seen, token=token, finish="length" if last else None))
    if not new_tokens:
        stream.put(make_event(finish="length"))


def _seen(look: Look, start: int, end: int, length: int, ready: Ready) -> SeenEvent:
    """What the rows [start, end) behind, or of, a prompt of that length show."""
    keys = max(length, end)
    sites = () if look.trace is None else tuple(_sites(look.trace, start, end, keys, ready))
    asked = look.attention
    patterns = () if asked is None else tuple(_patterns(asked, start, end, keys))
    lens = () if look.lens is None else tuple(_lens(look.lens, start, end, ready))
    return SeenEvent(sites, patterns, lens)


def _sites(
    spec: TraceSpec, start: int, end: int, num_keys: int, ready: Ready
) -> Iterator[SiteEvent]:
    first, last = max(start, spec.start), end if spec.end is None else min(end, spec.end)
    for site in spec.sites if first < last else ():
        positions = np.arange(first, last)
        values = [site_values(site, layer, positions, num_keys, ready) for layer in site.layers]
        yield SiteEvent(site.name, site.layers, first, float_tensor(np.stack(values)))


def site_values(
    site: SiteSpec, layer: int, positions: np.ndarray, num_keys: int, ready: Ready
) -> np.ndarray:
    """[rows, (heads,) width]: 1000 layers, 10 positions and heads, counted together."""
    width = site_shapes(ready)[site.name].width or num_keys
    values = (
        1000.0 * layer + 10.0 * positions[:, None, None] + np.reshape(site.heads or [0], (-1, 1))
    )
    values = np.broadcast_to(values, (*values.shape[:2], width))
    return values if site.heads else values[:, 0]


def _patterns(spec: PatternSpec, start: int, end: int, num_keys: int) -> Iterator[PatternEvent]:
    queries = tuple(query for query in spec.queries if start <= query < end)
    single = spec.average_heads or spec.rollout
    heads = [0] if single else spec.heads
    for layer in ([0] if spec.rollout else spec.layers) if queries else ():
        keys = np.arange(spec.top_k or num_keys)
        weights = (
            layer + np.reshape(heads, (-1, 1, 1)) / 10 + np.reshape(queries, (1, -1, 1)) / 1000
        )
        weights = np.broadcast_to(weights, (len(heads), len(queries), len(keys)))
        top = np.broadcast_to(keys.astype("<i4"), weights.shape).tobytes() if spec.top_k else b""
        yield PatternEvent(layer, queries, float_tensor(weights), top)


def _lens(spec: LensSpec, start: int, end: int, ready: Ready) -> Iterator[LensEvent]:
    first, last = max(start, spec.start), min(end, spec.end)
    for layer in spec.layers if first < last else ():
        width = spec.logits.row_values(ready.d_vocab)
        values = 100.0 * layer + np.arange(first, last)[:, None] + np.zeros(width)
        ids = np.broadcast_to(np.arange(width, dtype="<i4"), values.shape)
        top = ids.tobytes() if spec.logits.mode == "top" else b""
        yield LensEvent(layer, first, float_tensor(values), top)
