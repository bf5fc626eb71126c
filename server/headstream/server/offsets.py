"""Where each token lies in its text: exact byte and code point ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The tokens of one text, as parallel tuples."""

    ids: tuple[int, ...]
    surfaces: tuple[bytes, ...]
    byte_ranges: tuple[Range, ...]
    char_ranges: tuple[Range, ...]
    special: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.ids)


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
    the tokenizer's own code point offsets decide, turned into bytes.

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
    position = 0
    for surface, (first, last), is_added in zip(surfaces, char_offsets, added, strict=True):
        if is_added:
            ranges.append((position, position))
            continue
        told = (starts[first], starts[last])
        found = _find(text, surface, position)
        # A chance match (normalisation dropped or doubled something) lies outside what was told.
        if found is None or not (found[0] < told[1] and told[0] < found[1]):
            found = (max(position, told[0]), max(position, told[1]))
        ranges.append(found)
        position = found[1]
    return ranges


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
            ranges.append((bisect_right(starts, start) - 1, bisect_right(starts, end - 1)))
    return ranges
