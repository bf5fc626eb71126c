"""Spans of a text and the tokens they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headstream.model.outputs import PoolKind
from headstream.server.errors import InvalidRequest
from headstream.server.offsets import Range, TokenizedText, Tokens
from headstream.v1 import embeddings_service_pb2 as pb

OffsetUnit = Literal["byte", "char"]


@dataclass(frozen=True, slots=True)
class PoolRule:
    """Which rows of a text become its vector."""

    kind: PoolKind
    special: bool = False  # mean and max go over special tokens too


def parse_spans(field: str, spans: Sequence[pb.Span]) -> tuple[Range, ...]:
    """The spans, if none of them is empty."""
    for i, span in enumerate(spans):
        if span.end <= span.start:
            raise InvalidRequest(f"{field}[{i}]", f"[{span.start}, {span.end}) is empty")
    return tuple((span.start, span.end) for span in spans)


def span_positions(
    field: str,
    tokens: TokenizedText,
    spans: Sequence[Range],
    unit: OffsetUnit,
    rule: PoolRule,
    *,
    prompt: str = "",
) -> tuple[tuple[int, ...], ...]:
    """For the vector of each span the positions of its rows, ascending.

    A span has every token whose range overlaps it; special ones never do. Last and cls take the one
    row they name. Spans are counted from the end of the ``prompt``, which the tokens read before
    the text.
    """
    ranges = tokens.byte_ranges if unit == "byte" else tokens.char_ranges
    before = len(prompt.encode() if unit == "byte" else prompt)
    found: list[tuple[int, ...]] = []
    for i, (start, end) in enumerate(spans):
        covered = [
            position
            for position, (first, last) in enumerate(ranges)
            if first < end + before and start + before < last and not tokens.special[position]
        ]
        if not covered:
            raise InvalidRequest(f"{field}.spans[{i}]", f"[{start}, {end}) holds no token")
        found.append(_choose(tokens, covered, rule))
    return tuple(found)


def whole_positions(
    field: str, tokens: Tokens, rule: PoolRule, *, first: int = 0
) -> tuple[tuple[int, ...]]:
    """The positions of the rows of the one vector of a text, from the position ``first`` on."""
    whole = _choose(tokens, range(first, len(tokens)), rule)
    if not whole:
        raise InvalidRequest(field, "no token is left to pool: all are special, or of the prompt")
    return (whole,)


def _choose(tokens: Tokens, covered: Sequence[int], rule: PoolRule) -> tuple[int, ...]:
    if rule.kind == "last":
        return tuple(covered[-1:])
    if rule.kind == "cls":
        return tuple(covered[:1])
    return tuple(position for position in covered if rule.special or not tokens.special[position])
