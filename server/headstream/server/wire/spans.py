"""Spans of a text and the tokens they cover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from headstream.server.errors import InvalidRequest
from headstream.server.offsets import Range, TokenizedText
from headstream.v1 import embeddings_service_pb2 as pb

OffsetUnit = Literal["byte", "char"]
PoolKind = Literal["mean", "last", "cls", "max"]


def parse_spans(field: str, spans: Sequence[pb.Span]) -> tuple[Range, ...]:
    """The spans, if none of them is empty."""
    for i, span in enumerate(spans):
        if span.end <= span.start:
            raise InvalidRequest(f"{field}[{i}]", f"[{span.start}, {span.end}) is empty")
    return tuple((span.start, span.end) for span in spans)


def pool_positions(
    field: str,
    tokens: TokenizedText,
    spans: Sequence[Range],
    unit: OffsetUnit,
    kind: PoolKind,
) -> tuple[tuple[int, ...], ...]:
    """For each vector the positions of its rows, ascending.

    A span has every token whose range overlaps it. Mean and max leave special tokens out; last and
    cls take the one row they name. Without spans there is one vector, for the whole text.
    """
    if not spans:
        whole = _choose(tokens, range(len(tokens)), kind)
        if not whole:
            raise InvalidRequest(field, "all tokens are special: there is nothing to pool")
        return (whole,)
    ranges = tokens.byte_ranges if unit == "byte" else tokens.char_ranges
    found: list[tuple[int, ...]] = []
    for i, (start, end) in enumerate(spans):
        covered = [
            position
            for position, (first, last) in enumerate(ranges)
            if first < end and start < last and not tokens.special[position]
        ]
        if not covered:
            raise InvalidRequest(f"{field}.spans[{i}]", f"[{start}, {end}) holds no token")
        found.append(_choose(tokens, covered, kind))
    return tuple(found)


def _choose(tokens: TokenizedText, covered: Sequence[int], kind: PoolKind) -> tuple[int, ...]:
    if kind == "last":
        return (covered[-1],)
    if kind == "cls":
        return (covered[0],)
    return tuple(position for position in covered if not tokens.special[position])
