"""The store by itself: its index against exact search by numpy, and whose vectors it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstream.lookup import vector_index
from headstream.lookup.errors import ModelChanged
from headstream.lookup.filters import DocumentFilter
from headstream.lookup.reading import Reading
from headstream.lookup.store import Store
from headstream.lookup.tables import CHUNKS, WORDS, ReadDocument
from stored_documents import ANY, cluster, documents, identity


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


async def test_it_keeps_to_one_model(tmp_path: Path) -> None:
    store = await Store.open(str(tmp_path), {}, identity())
    await store.close()
    with pytest.raises(ModelChanged, match="weights_sha256 is 'b', was 'a'"):
        await Store.open(str(tmp_path), {}, identity("b"))
    again = await Store.open(str(tmp_path), {}, identity(name="another name"))
    assert again.identity.fingerprint.weights_sha256 == "a"
    await again.close()
