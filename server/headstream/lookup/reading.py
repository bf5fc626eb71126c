"""What was read of a document: its chunks and words, each with its vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstream.lookup.cache import Vectors
from headstream.lookup.chunks import Range


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """All offsets are code points of the document."""

    chunks: list[Range]
    chunk_vectors: Vectors  # [chunks, d], float32, of length 1
    words: list[tuple[int, Range]]  # the index of its chunk, and where the word is
    word_vectors: Vectors  # [words, d]
    computed: int = 0  # vectors that the model computed for it

    @property
    def cached(self) -> int:
        """Vectors that were known."""
        return len(self.chunks) + len(self.words) - self.computed

    @classmethod
    def nothing(cls, dimensions: int) -> Reading:
        """That of a text in which the model sees no token."""
        empty = np.empty((0, dimensions), np.float32)
        return cls([], empty, [], empty)

    @classmethod
    def join(cls, parts: Sequence[Reading]) -> Reading:
        """The windows of one document, in their order."""
        words: list[tuple[int, Range]] = []
        chunks: list[Range] = []
        for part in parts:
            words += [(len(chunks) + chunk, word) for chunk, word in part.words]
            chunks += part.chunks
        return cls(
            chunks,
            np.concatenate([part.chunk_vectors for part in parts]),
            words,
            np.concatenate([part.word_vectors for part in parts]),
            sum(part.computed for part in parts),
        )
