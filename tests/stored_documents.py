"""A store of documents that no model has read: vectors around a few centres."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lancedb.table import AsyncTable

from headstream.client import Fingerprint
from headstream.lookup.filters import DocumentFilter
from headstream.lookup.identity import Identity
from headstream.lookup.reading import Reading
from headstream.lookup.store import Store
from headstream.lookup.tables import CHUNKS, WORDS, ReadDocument

D = 32
ANY = DocumentFilter()


def identity(weights: str = "a", name: str = "m") -> Identity:
    return Identity(Fingerprint(name, weights, "float32", "cpu"), D, "mean", "", "")


def cluster(count: int, seed: int = 0) -> Any:
    """Vectors [count, D] of length 1 around 40 centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, D))
    vectors = centres[rng.integers(40, size=count)] + 0.5 * rng.normal(size=(count, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def documents(vectors: Any, first: int = 0) -> list[ReadDocument]:
    """One chunk and one word each; `kind` is one of seven."""
    return [
        ReadDocument(
            str(number), "Word", {"kind": str(number % 7)}, f"digest {number}",
            Reading([(0, 4)], row, [(0, (0, 4))], row),
        )
        for number, row in enumerate(vectors[:, None], first)
    ]  # fmt: skip


COMMITS = ("update", "add", "delete", "merge_insert")


def before_commits(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Call ``act`` with the number of each commit, just before it is made."""
    count = 0

    def counted(method: Any) -> Any:
        def commit(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            act(count)
            count += 1
            return method(*args, **kwargs)

        return commit

    for name in COMMITS:
        monkeypatch.setattr(AsyncTable, name, counted(getattr(AsyncTable, name)))


def with_words(text: str, count: int, digest: str) -> ReadDocument:
    """The document 7: a chunk, and the words of one letter that begin it."""
    vectors = cluster(1 + count)
    words = [(0, (at, at + 1)) for at in range(count)]
    return ReadDocument(
        "7", text, {}, digest, Reading([(0, len(text))], vectors[:1], words, vectors[1:])
    )


FIRST, SECOND = with_words("abc", 3, "x"), with_words("de", 2, "y")


async def kept(store: Store) -> tuple[set[str], set[str], str | None]:
    """The texts of chunks, the words, and the digest that is told."""
    found = [
        await store.search(table, cluster(1)[0], limit=100, documents=ANY)
        for table in (CHUNKS, WORDS)
    ]
    chunks, words = found
    digest = (await store.digests(["7"])).get("7")
    return {hit.row["text"] for hit in chunks}, {hit.row["word"] for hit in words}, digest
