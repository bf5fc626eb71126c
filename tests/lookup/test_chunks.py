"""Cutting documents, against texts made at random and simple counting."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from headstream.lookup import chunks
from headstream.lookup.offsets import ByteOffsets

TEXTS = st.text(
    st.sampled_from("abé日👩 \n.!?。-'"), min_size=1, max_size=400
).filter(lambda text: text.strip())  # fmt: skip


def tokens_of(text: str) -> list[chunks.Range]:
    """Runs of at most three characters without blanks: a tokenizer for tests."""
    return [match.span() for match in re.finditer(r"\S{1,3}", text)]


@given(TEXTS, st.integers(1, 12))
def test_chunks_hold_every_token_and_no_more_than_the_limit(text: str, limit: int) -> None:
    tokens = tokens_of(text)
    found = chunks.cut(text, tokens, limit)
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in found)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))
    for start, end in found:
        assert sum(start <= token[0] < end for token in tokens) <= limit
    held = {i for i in range(len(text)) if any(start <= i < end for start, end in found)}
    assert {i for i in range(len(text)) if not text[i].isspace()} <= held


def test_sentences_stay_whole() -> None:
    text = "One two. Three four five! Six. Seven eight nine ten eleven twelve."
    words = [match.span() for match in re.finditer(r"\S+", text)]
    found = [text[slice(*chunk)] for chunk in chunks.cut(text, words, 5)]
    assert found == [
        "One two. Three four five!",
        "Six.",
        "Seven eight nine ten eleven",
        "twelve.",
    ]


@given(TEXTS, st.integers(2, 12), st.integers(12, 40))
def test_windows_keep_every_chunk_once(text: str, limit: int, window: int) -> None:
    tokens = tokens_of(text)
    found = chunks.cut(text, tokens, limit)
    sizes = chunks.sizes(text, found, tokens, tokens_per_byte=0)
    assert sum(sizes) == len(tokens)
    read = chunks.windows(found, sizes, window)
    assert [chunk for part in read for chunk in part.chunks] == found
    for part in read:
        assert sum(part.start <= start < part.end for start, _ in tokens) <= window
        assert part.start <= part.chunks[0][0]


def test_a_window_begins_with_what_was_said_before() -> None:
    found = [(0, 9), (10, 19), (20, 29), (30, 39)]
    first, second = chunks.windows(found, [3, 3, 3, 3], 12 - 1)
    assert (first.start, first.chunks) == (0, tuple(found[:3]))
    assert second.chunks == ((30, 39),)
    assert second.start == 30  # 3 + 3 of 11 would leave less than half for what is new
    assert chunks.windows(found, [3, 3, 3, 3], 12)[0].chunks == tuple(found)
    assert chunks.windows([*found, (40, 49)], [2, 2, 2, 2, 2], 8)[1].start == 30


@given(TEXTS, st.integers(4, 20))
def test_units_bound_the_bytes(text: str, max_bytes: int) -> None:
    units = chunks.units(text, tokens_of(text), max_bytes)
    assert all(len(text[start:end].encode()) <= max_bytes for start, end in units)
    assert sum(end - start for start, end in units) == len(text.lstrip())


@given(TEXTS, st.integers(4, 50))
def test_pieces_are_the_text(text: str, max_bytes: int) -> None:
    parts = [text[start:end] for start, end in chunks.pieces(text, max_bytes)]
    assert "".join(parts) == text
    assert all(len(part.encode()) <= max_bytes for part in parts)


def test_words_keep_apostrophes_and_hyphens() -> None:
    text = "It didn't re-open, naïve Straße; 日本 42!"
    found = [text[slice(*word)] for word in chunks.words(text, (0, len(text)))]
    assert found == ["It", "didn't", "re-open", "naïve", "Straße", "日本", "42"]


def test_what_no_token_covers_has_no_vector() -> None:
    assert chunks.with_tokens([(0, 2), (2, 4), (5, 9)], [(0, 2), (6, 7)]) == [(0, 2), (5, 9)]
    assert chunks.with_tokens([(0, 2)], []) == []


@given(TEXTS)
def test_bytes_and_code_points(text: str) -> None:
    places = ByteOffsets(text)
    starts = [len(text[:i].encode()) for i in range(len(text) + 1)]
    assert [places.byte(i) for i in range(len(text) + 1)] == starts
    chars = {byte: char for char, byte in enumerate(starts)}
    assert [places.char(b) for b in range(starts[-1] + 2)] == [
        chars.get(b) for b in range(starts[-1] + 2)
    ]
