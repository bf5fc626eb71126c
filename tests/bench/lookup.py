"""The lookup service measured: recall and latency over many vectors, late beside naive chunking.

    python tests/bench/lookup.py --count 100000 --vectors vectors.npy

Texts are what installed packages ship: docstrings of the standard library and of site-packages for
the crowd, the topics of the language reference (`pydoc_data`) for chunking. Prints a line of
JSON for each part.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import re
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headstream.client import Client
from headstream.lookup.identity import Identity
from headstream.lookup.reading import Reading
from headstream.lookup.store import Store
from headstream.lookup.tables import ReadDocument
from headstream.v1 import lookup_service_pb2 as pb
from language_reference import sections
from lookup_process import Lookup, running_lookup
from server_process import running_server

BATCH = 64
ROWS_PER_WRITE = 5000


def sentences(count: int) -> list[str]:
    """Different ones of 40 to 160 characters."""
    found: dict[str, None] = {}
    for text in _docstrings():
        for part in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
            sentence = " ".join(part.split())
            if 40 <= len(sentence) <= 160 and sentence[0].isalpha():
                found[sentence] = None
                if len(found) == count:
                    return list(found)
    raise SystemExit(f"only {len(found)} sentences are installed")


def _docstrings() -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for name in ("purelib", "stdlib"):
        for path in sorted(Path(sysconfig.get_path(name)).rglob("*.py")):
            try:
                tree = ast.parse(path.read_text())
            except (SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, kinds):
                    yield ast.get_docstring(node) or ""


def embedded(client: Client, count: int, file: Path | None) -> Any:
    """Vectors [count, d] of sentences, of length 1; read from the file, or written to it."""
    if file is not None and file.exists():
        vectors = np.load(file)[:count].astype(np.float32)
    else:
        texts = sentences(count)
        batches = [texts[i : i + BATCH] for i in range(0, count, BATCH)]
        vectors = np.concatenate([client.embed(batch, timeout=300) for batch in batches])
        if file is not None:
            np.save(file, vectors)
    assert len(vectors) == count
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


async def fill(folder: Path, identity: Identity, vectors: Any) -> dict[str, float]:
    """Write one document a vector [n, d], and index them; the seconds of both."""
    store = await Store.open(str(folder), {}, identity)
    nothing = np.empty((0, vectors.shape[1]), np.float32)
    start = time.perf_counter()
    for first in range(0, len(vectors), ROWS_PER_WRITE):
        rows = vectors[first : first + ROWS_PER_WRITE]
        await store.write(
            [
                ReadDocument(str(first + i), "text", {}, "", Reading([(0, 4)], row, [], nothing))
                for i, row in enumerate(rows[:, None])
            ]
        )
    written = time.perf_counter()
    await store.settle()
    await store.close()
    return {"write_s": written - start, "settle_s": time.perf_counter() - written}


def crowd(lookup: Lookup, queries: Any, truth: Any) -> dict[str, float]:
    """Recall against exact search, and milliseconds over gRPC, one query at a time."""
    recalls: list[float] = []
    seconds: list[float] = []
    for query, expected in zip(queries, truth, strict=True):
        request = pb.SearchRequest(vector=pb.QueryVector(values=query))
        start = time.perf_counter()
        hits = lookup.stub.Search(request).hits
        seconds.append(time.perf_counter() - start)
        recalls.append(len({int(hit.document_id) for hit in hits} & set(expected)) / len(expected))
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return {"recall_at_10": float(np.mean(recalls)), "p50_ms": p50, "p99_ms": p99}


def adds(lookup: Lookup) -> dict[str, float]:
    """Milliseconds from a document of one sentence to its acknowledgement, reading included."""
    seconds: list[float] = []
    for i in range(40):
        start = time.perf_counter()
        lookup.add({f"new{i}": f"A new document, the number of which is {i}."})
        seconds.append(time.perf_counter() - start)
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return {"add_p50_ms": p50, "add_p99_ms": p99}


def chunking(lookup: Lookup) -> dict[str, dict[str, float]]:
    """A heading is the query; its section's chunks, or its document's, are what should be found."""
    documents = sections()
    bodies = {name: "\n\n".join(body for _, body in pairs) for name, pairs in documents.items()}
    queries = [(heading, name) for name, pairs in documents.items() for heading, _ in pairs]
    for name, text in bodies.items():
        lookup.add({f"late/{name}": text}, how="late")
    chunks = {
        name: sorted(
            (hit.span.start, hit.text)
            for hit in lookup.search(
                "a", limit=1000, filter=pb.Filter(document_ids=[f"late/{name}"])
            )
        )
        for name in bodies
    }
    for name, parts in chunks.items():  # the same chunks, each read alone
        naive = {f"naive/{name}/{start}": text for start, text in parts}
        for first in range(0, len(naive), 200):
            lookup.add(dict(list(naive.items())[first : first + 200]), how="naive")
    return {
        how: _ranks(lookup, queries, documents, how) | {"queries": len(queries)}
        for how in ("late", "naive")
    }


def _ranks(
    lookup: Lookup,
    queries: list[tuple[str, str]],
    documents: dict[str, list[tuple[str, str]]],
    how: str,
) -> dict[str, float]:
    section: list[float] = []
    document: list[float] = []
    only = pb.Filter(conditions=[pb.Condition(key="how", any_of=[how])])
    for heading, name in queries:
        body = dict(documents[name])[heading]
        hits = lookup.search(heading, limit=10, filter=only, exact=True)
        names = [hit.document_id.split("/")[1] for hit in hits]
        ranks = [i for i, hit in enumerate(hits) if names[i] == name and hit.text in body]
        section.append(1 / (1 + ranks[0]) if ranks else 0)
        document.append(1 / (1 + names.index(name)) if name in names else 0)
    return {
        "section_mrr_at_10": float(np.mean(section)),
        "section_hit_at_1": float(np.mean([rank == 1 for rank in section])),
        "document_mrr_at_10": float(np.mean(document)),
        "document_hit_at_1": float(np.mean([rank == 1 for rank in document])),
    }


def show(part: str, values: dict[str, float]) -> None:
    rounded = {name: round(float(value), 4) for name, value in values.items()}
    print(json.dumps({"part": part, **rounded}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--parts", nargs="+", default=["chunking", "crowd"])
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--vectors", type=Path, help="keep or take the vectors of the sentences")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # what other packages' docstrings hold
    show("machine", {"cores": psutil.cpu_count() or 0, "load": psutil.getloadavg()[0]})
    flags = ("--dtype", "float32", "--threads", "2")
    with running_server(Path(arguments.model), *flags) as server, Client(server.address) as client:
        if "chunking" in arguments.parts:
            with (
                tempfile.TemporaryDirectory() as folder,
                running_lookup(server.address, folder) as lookup,
            ):
                for how, values in chunking(lookup).items():
                    show(f"{how} chunking", values)
        if "crowd" in arguments.parts:
            total = arguments.count + arguments.queries
            vectors = embedded(client, total, arguments.vectors)
            order = np.random.default_rng(0).permutation(total)
            kept, queries = np.split(vectors[order], [arguments.count])
            measure_crowd(server.address, Identity.of(client.model()), kept, queries)
    show("load", {"load": psutil.getloadavg()[0]})


def measure_crowd(address: str, identity: Identity, kept: Any, queries: Any) -> None:
    """Keep vectors [n, d], and look for the nearest to each of the queries [q, d]."""
    truth = np.argsort(-(queries @ kept.T), axis=1)[:, :10]
    with tempfile.TemporaryDirectory() as folder:
        show("fill", asyncio.run(fill(Path(folder), identity, kept)))
        with running_lookup(address, folder) as lookup:
            crowd(lookup, queries[:20], truth[:20])  # warm
            show("crowd", crowd(lookup, queries, truth))
            show("adds", adds(lookup))


if __name__ == "__main__":
    main()
