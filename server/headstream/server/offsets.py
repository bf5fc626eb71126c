"""Where each token lies in its text: exact byte and code point ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from unicodedata import category

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text, as parallel tuples."""

    ids: tuple[int, ...]
    special: tuple[bool, ...]
    suffix: int  # of the last ones, special and of no text: the tokenizer puts them at the end

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class TokenizedText(Tokens):
    """The same, and where each of them lies in the text, which takes longer to find."""

    surfaces: tuple[bytes, ...]
    byte_ranges: tuple[Range, ...]
    char_ranges: tuple[Range, ...]


def char_starts(text: bytes) -> list[int]:
    """Byte offset of every code point, and the end of the text behind them."""
    return [at for at, byte in enumerate(text) if byte & 0xC0 != 0x80] + [len(text)]


def align(
    text: bytes,
    surfaces: Sequence[bytes],
    char_offsets: Sequence[Range],
    added: Sequence[bool],
) -> list[Range]:
    """Byte range of each token in the text.

    A surface that stands in the text where the token before it ended is taken at its word: this
    is exact even for tokens that hold part of a character. Where normalisation changed the text,
    the tokenizer's own code point offsets decide, turned into bytes: tokens that share a character
    (a ligature taken apart, a syllable in letters) all have the whole of it, and accents that were
    dropped belong to their letter.

    Args:
        text: The text in UTF-8.
        surfaces: The bytes of each token.
        char_offsets: The tokenizer's code point range of each token.
        added: Whether the tokenizer added the token; such a token has an empty range.

    Returns:
        Half-open ranges, whose starts never decrease.
    """
    starts = char_starts(text)
    ranges: list[Range] = []
    position = start = 0  # where the token before ended, and where it started
    for surface, (first, last), is_added in zip(surfaces, char_offsets, added, strict=True):
        if is_added:
            ranges.append((position, position))
            start = position
            continue
        told = (starts[first], starts[last])
        found = _find(text, surface, position)
        # A chance match (normalisation dropped or doubled something) lies outside what was told.
        if found is None or not (found[0] < told[1] and told[0] < found[1]):
            start = _take_back(text, ranges, position, told[1], start)
            found = (max(start, told[0]), max(start, told[1]))
        ranges.append(found)
        start, position = found[0], max(position, found[1])
    return _with_marks(text, ranges)


def _take_back(text: bytes, ranges: list[Range], position: int, end: int, start: int) -> int:
    """Widen the tokens that were taken at their word inside of a character that was changed.

    Its first bytes may stand in the text by chance, as those of a letter with another accent do.

    Args:
        text: As of :func:`align`.
        ranges: Of the tokens before, changed in place.
        position: Where the last of them ended.
        end: Where the token ends that does not stand there.
        start: Where the last of them started.

    Returns:
        Where it starts now.
    """
    letter = position
    while letter < len(text) and text[letter] & 0xC0 == 0x80:
        letter -= 1
    if letter == position:
        return start
    behind = position
    while behind < len(text) and text[behind] & 0xC0 == 0x80:
        behind += 1
    end = min(end, behind + _marks_length(text[behind:end]))  # the token there may reach further
    for index in range(len(ranges) - 1, -1, -1):
        first, last = ranges[index]
        if last <= letter:
            break
        ranges[index] = (min(first, letter), max(last, end))
    return min(start, letter)


def _with_marks(text: bytes, ranges: Sequence[Range]) -> list[Range]:
    """The ranges, with the combining marks behind them that normalisation composed or dropped."""
    widened = list(ranges)
    end = 0  # of the tokens before
    for index, start in enumerate([*(start for start, _ in ranges), len(text)]):
        if start > end > 0:
            with_marks = end + _marks_length(text[end:start])
            before = index
            while before and widened[before - 1][1] == end:
                before -= 1
                first = widened[before][0]
                widened[before] = (first if first < end else with_marks, with_marks)
        if index < len(ranges):
            end = max(end, ranges[index][1])
    return widened


def _marks_length(text: bytes) -> int:
    """Bytes of the marks that a text begins with."""
    if not text or text[0] < 0x80:  # as most are: a space
        return 0
    return len("".join(takewhile(_is_mark, text.decode(errors="ignore"))).encode())


def _is_mark(letter: str) -> bool:
    """Whether a code point belongs to the letter before: combining, or the rest of a syllable."""
    return category(letter).startswith("M") or "\u1160" <= letter <= "\u11ff"


def _find(text: bytes, surface: bytes, position: int) -> Range | None:
    if surface and text.startswith(surface, position):
        return position, position + len(surface)
    if surface.startswith(b" ") and len(surface) > 1 and text.startswith(surface[1:], position):
        return position, position + len(surface) - 1  # a space that the tokenizer put in front
    return None


def char_ranges(text: bytes, byte_ranges: Sequence[Range]) -> list[Range]:
    """The code points that each byte range touches."""
    starts = char_starts(text)[:-1]
    ranges: list[Range] = []
    for start, end in byte_ranges:
        if start == end:
            at = bisect_right(starts, start - 1)
            ranges.append((at, at))
        else:
            # Tokens may begin in the middle of a character: such bytes in front touch none.
            first = max(0, bisect_right(starts, start) - 1)
            ranges.append((first, bisect_right(starts, end - 1)))
    return ranges
