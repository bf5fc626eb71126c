from __future__ import annotations

import pytest

import tiny_tokenizers
from headstream.model.outputs import PoolKind
from headstream.server.errors import InvalidRequest
from headstream.server.offsets import TokenizedText
from headstream.server.tokenizer import TextTokenizer
from headstream.server.wire.spans import (
    OffsetUnit,
    PoolRule,
    parse_spans,
    span_positions,
    whole_positions,
)
from headstream.v1 import embeddings_service_pb2 as pb

TOKENS = TokenizedText(  # <bos> | né | e | 日(two parts) | x
    ids=(0, 1, 2, 3, 4, 5),
    suffix=0,
    surfaces=(b"<bos>", "né".encode(), b"e", b"\xe6", b"\x97\xa5", b"x"),
    byte_ranges=((0, 0), (0, 3), (3, 4), (4, 5), (5, 7), (7, 8)),
    char_ranges=((0, 0), (0, 2), (2, 3), (3, 4), (3, 4), (4, 5)),
    special=(True, False, False, False, False, False),
)


def positions(
    spans: list[tuple[int, int]], unit: OffsetUnit = "byte", kind: PoolKind = "mean"
) -> tuple[tuple[int, ...], ...]:
    return span_positions("inputs[0]", TOKENS, spans, unit, PoolRule(kind))


@pytest.mark.parametrize(
    ("span", "unit", "covered"),
    [
        ((0, 3), "byte", (1,)),
        ((2, 4), "byte", (1, 2)),  # half of a token is enough
        ((4, 5), "byte", (3,)),
        ((3, 4), "char", (3, 4)),  # both parts of one character
        ((0, 99), "byte", (1, 2, 3, 4, 5)),
        ((4, 5), "char", (5,)),
    ],
)
def test_a_span_has_every_token_that_overlaps_it(
    span: tuple[int, int], unit: OffsetUnit, covered: tuple[int, ...]
) -> None:
    assert positions([span], unit) == (covered,)


def test_kinds() -> None:
    assert positions([(0, 4)], kind="last") == ((2,),)
    assert positions([(0, 4)], kind="cls") == ((1,),)
    assert positions([(0, 4)], kind="max") == ((1, 2),)


def test_the_whole_text() -> None:
    assert whole_positions("inputs[0]", TOKENS, PoolRule("mean")) == ((1, 2, 3, 4, 5),)
    assert whole_positions("inputs[0]", TOKENS, PoolRule("cls")) == ((0,),)
    assert whole_positions("inputs[0]", TOKENS, PoolRule("last")) == ((5,),)


def test_a_span_without_a_token_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"inputs\[0\].spans\[1\]: \[8, 9\) holds no token"):
        positions([(0, 1), (8, 9)])


@pytest.mark.parametrize("span", [(3, 3), (4, 3)])
def test_an_empty_span_is_named(span: tuple[int, int]) -> None:
    message = pb.Span(start=span[0], end=span[1])
    with pytest.raises(InvalidRequest, match=r"spans\[0\]: .* is empty"):
        parse_spans("spans", [message])


def test_only_special_tokens_is_an_error_for_a_mean() -> None:
    tokenizer = TextTokenizer(tiny_tokenizers.byte_level_tokenizer())
    only = tokenizer.describe([0])
    with pytest.raises(InvalidRequest, match="special"):
        whole_positions("inputs[0]", only, PoolRule("mean"))
    assert whole_positions("inputs[0]", only, PoolRule("last")) == ((0,),)
    assert whole_positions("inputs[0]", only, PoolRule("mean", special=True)) == ((0,),)


def test_special_tokens_are_pooled_where_the_model_does_so() -> None:
    rule = PoolRule("mean", special=True)
    assert whole_positions("inputs[0]", TOKENS, rule) == ((0, 1, 2, 3, 4, 5),)
    assert span_positions("inputs[0]", TOKENS, [(0, 4)], "byte", rule) == ((1, 2),), "not in spans"


@pytest.mark.parametrize(("unit", "span"), [("byte", (0, 3)), ("char", (0, 1))])
def test_spans_are_counted_from_the_end_of_the_prompt(
    unit: OffsetUnit, span: tuple[int, int]
) -> None:
    """The prompt is "née": four bytes, three characters."""
    found = span_positions(
        "inputs[0]", TOKENS, [span, (0, 99)], unit, PoolRule("mean"), prompt="née"
    )
    assert found == ((3, 4), (3, 4, 5))


def test_pooling_begins_behind_the_prompt_where_the_model_wants_it() -> None:
    def pooled(kind: PoolKind, first: int) -> tuple[int, ...]:
        rule = PoolRule(kind, special=True)
        return whole_positions("inputs[0]", TOKENS, rule, first=first)[0]

    assert pooled("mean", 3) == (3, 4, 5)
    assert pooled("cls", 3) == (3,)
    assert pooled("last", 3) == (5,)
    with pytest.raises(InvalidRequest, match="no token is left"):
        pooled("mean", 6)
