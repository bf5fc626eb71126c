# ruff: noqa: RUF001 - letters of all scripts
"""Spans pool the tokens whose text overlaps them: any script, any kind of tokenizer.

What a token covers is worked out anew here, from the tokens and the text alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import tiny_tokenizers
from headstream.model.loading.source import resolve
from headstream.server.errors import InvalidRequest
from headstream.server.offsets import TokenizedText
from headstream.server.tokenizer import TextTokenizer
from headstream.server.wire.spans import OffsetUnit, PoolRule, span_positions

EXACT = [tiny_tokenizers.byte_level_tokenizer(), tiny_tokenizers.byte_fallback_tokenizer()]
COMPATIBILITY = tiny_tokenizers.compatibility_tokenizer()
WORD_PIECE = [
    TextTokenizer(tiny_tokenizers.word_piece_tokenizer()),
    TextTokenizer.from_directory(resolve("all-minilm-l6-v2", Path())),
]
PIECES = [
    *("a", "the", "The chicken", "crossed", " ", "  ", ".", ",", "!", "42", "x_y", "\n", "\t"),
    *("naïve", "CAFÉ", "cafe\u0301", "e\u0301\u0327", "\u0301", "n\u0303", "Straße", "İ", "Σ", "ǅ"),
    *("ﬁ", "oﬃce", "½", "①", "Ａ", "㎏", "\u00ad", "\u200b"),  # NFKC takes them apart, or they go
    *("日本", "語", "中文", "。", "한국", "각", "\u1112\u1161\u11ab", "カ\u3099", "𐍈", "𠮷"),
    *("שלום", "שָׁלוֹם", "مرحبا", "مَرْحَبًا", "می\u200cخواهم", "नमस्ते", "ไทย"),
    *("👩\u200d👩\u200d👧", "🇯🇵", "👍🏽", "❤\ufe0f", "1\ufe0f\u20e3", "😀"),
]
texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join)

Range = tuple[int, int]
Cover = dict[int, Range]  # position of a token -> the range of its text


def byte_cover(tokenizer: TextTokenizer, ids: tuple[int, ...], text: str) -> Cover:
    """Byte ranges where tokens are the text itself: one behind the other, none left out."""
    surfaces = [tokenizer.surfaces[token_id] for token_id in ids[1:]]  # the first is <bos>
    assert b"".join(surfaces) == text.encode()
    ends = [len(b"".join(surfaces[:count])) for count in range(len(surfaces) + 1)]
    return {position + 1: pair for position, pair in enumerate(pairwise(ends))}


def word_piece_cover(tokenizer: TextTokenizer, ids: tuple[int, ...], text: str) -> Cover:
    """Code point ranges where letters are lower case, without accents and some left out."""
    words = list(split_words(text))
    cover: Cover = {}
    for position, token_id in enumerate(ids):
        surface = tokenizer.surfaces[token_id].decode()
        if surface in {"[CLS]", "[SEP]"}:
            continue
        word = words[0]
        used = len(word) if surface == "[UNK]" else len(surface)
        part, words[0] = word[:used], word[used:]
        assert surface in {"[UNK]", "".join(letter for letter, _ in part)}
        words = words if words[0] else words[1:]
        cover[position] = with_marks(text, part[0][1], part[-1][1] + 1)
    assert words == []
    return cover


def split_words(text: str) -> Iterator[list[tuple[str, int]]]:
    """The words that BERT sees: their letters, and the code point each came from."""
    word: list[tuple[str, int]] = []
    for index, original in enumerate(text):
        category = unicodedata.category(original)
        alone = category[0] == "P" or original in "_!$+<=>^`|~" or "\u4e00" <= original <= "\u9fff"
        alone = alone or "\U00020000" <= original <= "\U0002a6df"
        if (alone or original.isspace()) and word:
            yield word
            word = []
        if original.isspace() or category in {"Cc", "Cf"}:
            continue
        kept = [
            c for c in unicodedata.normalize("NFD", original) if unicodedata.category(c) != "Mn"
        ]
        word += [(letter, index) for letter in "".join(kept).lower()]
        if alone:
            yield word
            word = []
    if word:
        yield word


def with_marks(text: str, start: int, end: int) -> Range:
    while end < len(text) and unicodedata.category(text[end]) == "Mn":
        end += 1
    return start, end


def compatibility_cover(tokenizer: TextTokenizer, ids: tuple[int, ...], text: str) -> Cover:
    """Code point ranges where letters are in NFKC and lower case: parts of one made of several."""
    origins: list[Range] = []  # of each byte of what the model reads
    normal = ""
    for start, end in pairwise(closed_points(text)):
        letters = unicodedata.normalize("NFKC", text[start:end])
        assume(len(letters) == 1 or end - start == 1)  # several that become several: none's own
        letters = "".join(letter.lower() for letter in letters)
        origins += [(start, end)] * len(letters.encode())
        normal += letters
    surfaces = [tokenizer.surfaces[token_id] for token_id in ids[1:]]
    assert b"".join(surfaces) == normal.encode()
    cover: Cover = {}
    used = 0
    for position, surface in enumerate(surfaces):
        first, last = origins[used], origins[used + len(surface) - 1]
        cover[position + 1] = first[0], last[1]
        used += len(surface)
    return cover


def closed_points(text: str) -> list[int]:
    """Where a text can be cut without a change of its NFKC."""
    whole = unicodedata.normalize("NFKC", text)
    cuts = [(at, unicodedata.normalize("NFKC", text[:at])) for at in range(len(text) + 1)]
    return [at for at, front in cuts if front + unicodedata.normalize("NFKC", text[at:]) == whole]


def check_pooling(tokenizer: TextTokenizer, text: str, span: Range, cover: Cover) -> None:
    """By code points, and by the bytes of the same code points."""
    start, end = span
    expected = tuple(p for p, (first, last) in cover.items() if first < end and start < last)
    by_bytes = len(text[:start].encode()), len(text[:end].encode())
    check_unit(tokenizer.encode(text), "char", span, expected)
    check_unit(tokenizer.encode(text), "byte", by_bytes, expected)


def check_unit(
    tokens: TokenizedText, unit: OffsetUnit, span: Range, expected: tuple[int, ...]
) -> None:
    if expected:
        assert span_positions("i", tokens, [span], unit, PoolRule("mean")) == (expected,)
    else:
        with pytest.raises(InvalidRequest, match="holds no token"):
            span_positions("i", tokens, [span], unit, PoolRule("mean"))


def draw_span(data: st.DataObject, length: int) -> Range:
    start = data.draw(st.integers(0, length - 1))
    return start, data.draw(st.integers(start + 1, length))


@pytest.mark.parametrize("library", EXACT, ids=["byte_level", "byte_fallback"])
@given(text=texts, data=st.data())
@settings(max_examples=200, deadline=None)
def test_tokens_that_are_the_text(library: Tokenizer, text: str, data: st.DataObject) -> None:
    """A byte has its one token; a character every token that holds some of its bytes."""
    tokenizer = TextTokenizer(library)
    tokens = tokenizer.encode(text)
    cover = byte_cover(tokenizer, tokens.ids, text)
    start, end = draw_span(data, len(text.encode()))
    expected = tuple(p for p, (first, last) in cover.items() if first < end and start < last)
    check_unit(tokens, "byte", (start, end), expected)
    starts = [len(text[:at].encode()) for at in range(len(text) + 1)]
    in_chars = {
        position: (
            max(at for at, byte in enumerate(starts) if byte <= first),
            min(at for at, byte in enumerate(starts) if byte >= last),
        )
        for position, (first, last) in cover.items()
    }
    check_pooling(tokenizer, text, draw_span(data, len(text)), in_chars)


@pytest.mark.parametrize("tokenizer", WORD_PIECE, ids=["tiny", "minilm"])
@given(text=texts, data=st.data())
@settings(max_examples=200, deadline=None)
def test_tokens_in_lower_case_without_accents(
    tokenizer: TextTokenizer, text: str, data: st.DataObject
) -> None:
    cover = word_piece_cover(tokenizer, tokenizer.encode(text).ids, text)
    check_pooling(tokenizer, text, draw_span(data, len(text)), cover)


@given(text=texts, data=st.data())
@settings(max_examples=200, deadline=None)
def test_tokens_in_compatibility_form(text: str, data: st.DataObject) -> None:
    tokenizer = TextTokenizer(COMPATIBILITY)
    cover = compatibility_cover(tokenizer, tokenizer.encode(text).ids, text)
    check_pooling(tokenizer, text, draw_span(data, len(text)), cover)


def test_a_letter_put_together_keeps_out_of_the_next() -> None:
    """カ and its mark are read as one letter, whose last byte shares a token with what follows."""
    tokens = TextTokenizer(COMPATIBILITY).encode("aカ\u3099語")
    assert tokens.surfaces[1:] == (b"a", b"\xe3", b"\x82", b"\xac\xe8", b"\xaa\x9e")
    assert tokens.char_ranges[1:] == ((0, 1), (1, 3), (1, 3), (1, 4), (3, 4))


@pytest.mark.parametrize(
    ("text", "spans", "words"),
    [
        ("Das 한국 is 각", [(4, 6), (10, 11)], ["한국", "각"]),
        ("un cafe\u0301 noir", [(3, 8), (7, 8)], ["cafe\u0301"] * 2),
        ("a 👩\u200d👩\u200d👧 b", [(2, 7), (4, 5)], ["👩\u200d👩\u200d👧"] * 2),
        ("אמר שָׁלוֹם לה", [(4, 11)], ["שָׁלוֹם"]),
    ],
    ids=["syllables", "accent", "emoji", "points"],
)
def test_words_that_minilm_rewrites(text: str, spans: list[Range], words: list[str]) -> None:
    """Every token of a word lies in the word's own text, and none is lost."""
    tokens = WORD_PIECE[1].encode(text)
    pooled = span_positions("i", tokens, spans, "char", PoolRule("mean"))
    for positions, word in zip(pooled, words, strict=True):
        alone = WORD_PIECE[1].encode(word, skip_special=True)
        assert [tokens.ids[position] for position in positions] == list(alone.ids)
        ranges = [tokens.char_ranges[position] for position in positions]
        covered = text[min(start for start, _ in ranges) : max(end for _, end in ranges)]
        assert covered == word


@pytest.mark.parametrize("library", EXACT, ids=["byte_level", "byte_fallback"])
@given(data=st.data())
def test_given_tokens_may_begin_within_a_character(library: Tokenizer, data: st.DataObject) -> None:
    tokenizer = TextTokenizer(library)
    any_ids = st.lists(st.integers(0, library.get_vocab_size() - 1), min_size=1, max_size=4)
    table = tokenizer.describe(data.draw(any_ids))
    length = sum(byte & 0xC0 != 0x80 for byte in b"".join(table.surfaces))
    assert all(0 <= start <= end <= length for start, end in table.char_ranges)


def test_bytes_in_front_of_the_first_character_are_in_none() -> None:
    tokenizer = TextTokenizer(EXACT[0])
    ids = [*tokenizer.encode("é!", skip_special=True).ids][-2:]
    assert [tokenizer.surfaces[token_id] for token_id in ids] == [b"\xa9", b"!"]
    assert tokenizer.describe(ids).char_ranges == ((0, 0), (0, 1))
