"""How a document is cut: into chunks, which become vectors, and windows, which are read at once."""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Range = tuple[int, int]
"""Half-open, in code points of the document."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n+")
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


@dataclass(frozen=True, slots=True)
class Window:
    """Neighbouring chunks that are read together: late chunking happens within it."""

    start: int  # of what is read
    chunks: tuple[Range, ...]  # whose vectors are kept; those read before them are context only

    @property
    def end(self) -> int:
        """Where reading ends."""
        return self.chunks[-1][1]


def cut(text: str, tokens: Sequence[Range], limit: int) -> list[Range]:
    """Whole sentences of together at most ``limit`` tokens; longer ones are cut between words.

    Args:
        text: The document.
        tokens: Where its tokens are, ascending, without special ones.
        limit: Most tokens of a chunk.

    Returns:
        Chunks without blanks around them, none empty. Together they hold every token.
    """
    chunks: list[Range] = []
    start = end = count = index = 0
    for stop in _ends(text, tokens, limit):
        first = index
        while index < len(tokens) and tokens[index][0] < stop:
            index += 1
        if count and count + index - first > limit:
            chunks.append((start, end))
            start, count = end, 0
        end, count = stop, count + index - first
    chunks.append((start, len(text)))
    return [kept for chunk in chunks if (kept := _strip(text, chunk))]


def windows(chunks: Sequence[Range], sizes: Sequence[int], limit: int) -> list[Window]:
    """Runs of chunks of at most ``limit`` tokens, each after the first beginning with some context.

    A window reads the last chunk of the one before it again, where that leaves half of the room for
    what is new, so that what opens a window knows what was said before.
    """
    found: list[Window] = []
    first = 0
    while first < len(chunks):
        context = first
        if first and sizes[first - 1] + sizes[first] <= limit // 2:
            context -= 1
        total, last = sum(sizes[context : first + 1]), first + 1
        while last < len(chunks) and total + sizes[last] <= limit:
            total, last = total + sizes[last], last + 1
        found.append(Window(chunks[context][0], tuple(chunks[first:last])))
        first = last
    return found


def units(text: str, tokens: Sequence[Range], max_bytes: int) -> list[Range]:
    """The tokens, each with the blanks behind it; those of more than ``max_bytes`` as several.

    So a number of units says how long a text is at most, whatever strange words it has.
    """
    longest = max(1, max_bytes // len(max(text).encode()))
    found: list[Range] = []
    for index, (start, _) in enumerate(tokens):
        end = tokens[index + 1][0] if index + 1 < len(tokens) else len(text)
        cuts = [*range(start, max(end, start + 1), longest), end]
        found += list(itertools.pairwise(cuts))
    return found


def sizes(
    text: str, chunks: Sequence[Range], tokens: Sequence[Range], tokens_per_byte: float
) -> list[int]:
    """What each chunk takes of a window, with the blanks behind it.

    That is its tokens, or more for its bytes, which have a limit as well.
    """
    counts = [0] * len(chunks)
    at = 0
    for start, _ in tokens:
        while at < len(chunks) - 1 and start >= chunks[at + 1][0]:
            at += 1
        counts[at] += 1
    ends = [*(start for start, _ in chunks[1:]), len(text)]
    lengths = [len(text[start:end].encode()) for (start, _), end in zip(chunks, ends, strict=True)]
    return [
        max(count, math.ceil(length * tokens_per_byte))
        for count, length in zip(counts, lengths, strict=True)
    ]


def with_tokens(ranges: Sequence[Range], tokens: Sequence[Range]) -> list[Range]:
    """Those that a token overlaps; tokens ascend.

    What a tokenizer drops, such as control characters, has no vector.
    """
    starts = [start for start, _ in tokens]
    kept: list[Range] = []
    for start, end in ranges:
        last = bisect.bisect_left(starts, end) - 1  # of the tokens that begin before the end
        if last >= 0 and tokens[last][1] > start:
            kept.append((start, end))
    return kept


def words(text: str, chunk: Range) -> list[Range]:
    """The words of a chunk: letters and digits, with apostrophes and hyphens inside."""
    return [match.span() for match in _WORD.finditer(text, *chunk)]


def pieces(text: str, max_bytes: int) -> Iterator[Range]:
    """Parts of a long text that hold at most ``max_bytes`` each, cut behind blanks if possible."""
    start = 0
    while start < len(text):
        part = text[start : start + max_bytes].encode()[:max_bytes].decode(errors="ignore")
        end = start + len(part)
        if end < len(text):
            blank = max(part.rfind(" "), part.rfind("\n"))
            end = start + blank + 1 if blank > 0 else end
        yield start, end
        start = end


def _ends(text: str, tokens: Sequence[Range], limit: int) -> Iterator[int]:
    """Where a chunk may end: behind sentences, and within those that are too long."""
    begin = index = 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
        if end == begin:
            continue
        inside: list[Range] = []
        while index < len(tokens) and tokens[index][0] < end:
            inside.append(tokens[index])
            index += 1
        last = 0
        while len(inside) - last > limit:
            last = _split(text, inside, last, limit)
            yield inside[last][0]
        yield end
        begin = end


def _split(text: str, tokens: Sequence[Range], first: int, limit: int) -> int:
    """The token before which to cut: the last one that begins a word, or the last that fits."""
    for index in range(first + limit, first + limit // 2, -1):
        start = tokens[index][0]
        if not (text[start - 1].isalnum() and text[start].isalnum()):
            return index
    return first + limit


def _strip(text: str, chunk: Range) -> Range | None:
    part = text[slice(*chunk)]
    start = chunk[0] + len(part) - len(part.lstrip())
    return (start, start + len(part.strip())) if part.strip() else None
