"""The store by itself: its index against exact search by numpy, and what it does to rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lancedb.table import AsyncTable

from headstream.client import Fingerprint
from headstream.lookup import vector_index
from headstream.lookup.errors import ModelChanged
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


async def nearest(store: Store, query: Any, **options: Any) -> list[int]:
    table = options.pop("table", CHUNKS)
    wanted: dict[str, Any] = {"limit": 10, "documents": ANY, **options}
    found = await store.search(table, query, **wanted)
    return [int(hit.row["document_id"]) for hit in found]


async def test_the_index_finds_what_exact_search_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is an index, with it, with newer rows outside of it, and within a filter."""
    monkeypatch.setattr(vector_index, "MIN_ROWS", 3000)
    monkeypatch.setattr(vector_index, "ROWS_PER_PARTITION", 50)
    vectors, queries = cluster(4000), cluster(50, seed=1)
    store = await Store.open(str(tmp_path), {}, identity())

    async def recall(count: int, members: Any = None, **options: Any) -> float:
        scores = queries @ vectors[:count].T
        if members is not None:
            scores[:, ~members[:count]] = -2
        truth = np.argsort(-scores, axis=1)[:, :10]
        found = [await nearest(store, query, **options) for query in queries]
        shares = [len(set(f) & set(t.tolist())) / 10 for f, t in zip(found, truth, strict=True)]
        return float(np.mean(shares))

    await store.write(documents(vectors[:2000]))
    assert await recall(2000) == 1
    await store.write(documents(vectors[2000:3500], 2000))
    await store.settle()
    assert await store.counts() == (3500, 3500, 3500, 0)
    assert await recall(3500) >= 0.95
    with monkeypatch.context() as few_probes:  # the control: it is the index that is searched
        few_probes.setattr(vector_index, "MIN_PROBES", 1)
        few_probes.setattr(vector_index, "PROBED_SHARE", 0)
        assert await recall(3500) < 0.9
        assert await recall(3500, exact=True) == 1
    assert await recall(3500, table=WORDS) >= 0.95
    await store.write(documents(vectors[3500:], 3500))
    assert (await store.counts())[3] == 1000
    assert await recall(4000) >= 0.95
    only = DocumentFilter([("kind", ["3"])])
    members = np.arange(4000) % 7 == 3
    assert await recall(4000, members, documents=only) >= 0.95
    few = DocumentFilter(document_ids=["17", "3900"])
    assert set(await nearest(store, queries[0], documents=few)) == {17, 3900}
    await store.settle()
    assert (await store.counts())[3] == 0
    await store.close()


async def test_a_document_is_replaced_as_a_whole(tmp_path: Path) -> None:
    store = await Store.open(str(tmp_path), {}, identity())
    vectors = cluster(6)
    three = Reading([(0, 1), (1, 2), (2, 3)], vectors[:3], [(1, (1, 2))], vectors[3:4])
    one = Reading([(0, 3)], vectors[4:5], [], vectors[:0])
    await store.write([ReadDocument("7", "abc", {}, "x", three), *documents(vectors[5:], 8)])
    assert (await store.counts())[:3] == (2, 4, 2)
    await store.write([ReadDocument("7", "xyz", {}, "y", one)])
    assert (await store.counts())[:3] == (2, 2, 1)
    assert await store.digests(["7", "8", "9"]) == {"7": "y", "8": "digest 8"}
    assert await store.chunk_texts([("7", 0), ("7", 1)]) == {("7", 0): "xyz"}
    assert await store.delete(["7", "9"]) == 1
    assert (await store.counts())[:3] == (1, 1, 1)
    await store.close()


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


@pytest.mark.parametrize("what", ["add", "replace", "delete"])
async def test_what_was_cut_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The service ends before each of the commits: no digest of what is not all there."""
    whole: set[tuple[frozenset[str], frozenset[str], str]] = {
        (frozenset({"abc"}), frozenset("abc"), "x"),
        (frozenset({"de"}), frozenset("de"), "y"),
    }
    cuts = 0
    opened: list[Store] = []
    for cut in range(10):
        store = await Store.open(str(tmp_path / str(cut)), {}, identity())
        opened.append(store)
        if what != "add":
            await store.write([FIRST])

        def end(number: int, at: int = cut) -> None:
            if number == at:
                raise ConnectionAbortedError

        with monkeypatch.context() as cutting:
            before_commits(cutting, end)
            try:
                await (store.delete(["7"]) if what == "delete" else store.write([SECOND]))
            except ConnectionAbortedError:
                cuts += 1
            else:
                break
        chunks, words, digest = await kept(store)
        assert not digest or (frozenset(chunks), frozenset(words), digest) in whole
        await store.write([FIRST])
        assert await kept(store) == ({"abc"}, set("abc"), "x")
    assert cuts == (2 if what == "add" else 3)  # the last round was not cut
    for store in opened:
        await store.close()


@pytest.mark.parametrize("what", ["replace", "delete"])
async def test_who_leaves_does_not_stop_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for cut in range(3):
        store = await Store.open(str(tmp_path / str(cut)), {}, identity())
        await store.write([FIRST])
        change = store.delete(["7"]) if what == "delete" else store.write([SECOND])
        call: asyncio.Task[Any] = asyncio.create_task(change)

        def leave(number: int, at: int = cut, call: asyncio.Task[Any] = call) -> None:
            if number == at:
                call.cancel()

        with monkeypatch.context() as leaving:
            before_commits(leaving, leave)
            with pytest.raises(asyncio.CancelledError):
                await call
            await store.close()
        again = await Store.open(str(tmp_path / str(cut)), {}, identity())
        expected = (set(), set(), None) if what == "delete" else ({"de"}, set("de"), "y")
        assert await kept(again) == expected
        await again.close()


async def test_it_keeps_to_one_model(tmp_path: Path) -> None:
    store = await Store.open(str(tmp_path), {}, identity())
    await store.close()
    with pytest.raises(ModelChanged, match="weights_sha256 is 'b', was 'a'"):
        await Store.open(str(tmp_path), {}, identity("b"))
    again = await Store.open(str(tmp_path), {}, identity(name="another name"))
    assert again.identity.fingerprint.weights_sha256 == "a"
    await again.close()
