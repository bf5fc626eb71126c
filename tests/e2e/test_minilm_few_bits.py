"""Vectors of the real all-MiniLM-L6-v2 in fewer dimensions and bits: what search still finds."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from headstream.client import Client, FailedItem, TextEmbedding
from headstream.model.loading.source import resolve
from server_process import Server

NAME = "all-minilm-l6-v2"
NUM_QUERIES = 60
Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def client(minilm_server: Server) -> Generator[Client]:
    with Client(minilm_server.address) as client:
        yield client


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Those of this tree's own documents, in a mixed order."""
    root = Path(__file__).parents[2]
    text = " ".join((root / name).read_text() for name in ("ARCHITECTURE.md", "README.md"))
    found = [" ".join(part.split()) for part in re.split(r"(?<=[.:]) +|\n\n", text)]
    whole = sorted({part for part in found if 40 < len(part) < 300})
    order = np.random.default_rng(0).permutation(len(whole))
    return [whole[index] for index in order]


def embed(client: Client, texts: list[str], **options: Any) -> Array:
    results = [
        result
        for start in range(0, len(texts), 64)
        for result in client.embed_each(texts[start : start + 64], **options)
    ]
    assert all(isinstance(result, TextEmbedding) for result in results)
    return np.stack([r.to_float32() for r in results if isinstance(r, TextEmbedding)])


def similarities(vectors: Array) -> Array:
    """Cosines of the queries with the documents: [NUM_QUERIES, rest]."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines: Array = unit[:NUM_QUERIES] @ unit[NUM_QUERIES:].T
    return cosines


def recall(exact: Array, coarse: Array, within: int) -> float:
    """How often the nearest document is among the first ones of the coarse search."""
    first = np.argsort(-coarse, axis=1)[:, :within]
    return float((first == exact.argmax(1)[:, np.newaxis]).any(1).mean())


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's, over all pairs."""
    first, second = (np.argsort(np.argsort(values, axis=None)) for values in (a, b))
    middle = (a.size - 1) / 2
    return float(((first - middle) * (second - middle)).mean() / (first - middle).var())


@pytest.fixture(scope="module")
def exact(client: Client, sentences: list[str]) -> Array:
    assert len(sentences) > 3 * NUM_QUERIES
    return embed(client, sentences)


@pytest.mark.parametrize(
    ("options", "expected"),  # nearest one found among how many, how often; rank correlation
    [
        ({"dtype": "float16"}, (1, 1.0, 0.99999)),
        ({"dtype": "bfloat16"}, (1, 0.95, 0.9999)),
        ({"dtype": "int8"}, (1, 0.95, 0.9995)),
        ({"dtype": "binary"}, (10, 0.85, 0.8)),
        ({"dtype": "int8", "dimensions": 192}, (10, 0.85, 0.8)),
    ],
    ids=["float16", "bfloat16", "int8", "binary", "int8 of 192"],
)
def test_search_finds_the_same(
    client: Client,
    sentences: list[str],
    exact: Array,
    options: dict[str, Any],
    expected: tuple[int, float, float],
) -> None:
    within, found, order = expected
    cosines, coarse = similarities(exact), similarities(embed(client, sentences, **options))
    measured = recall(cosines, coarse, within), rank_correlation(cosines, coarse)
    assert measured[0] >= found, measured
    assert measured[1] >= order, measured


def test_vectors_of_other_texts_find_nothing(exact: Array) -> None:
    """What the figures above would be if the bits told nothing."""
    wrong = np.random.default_rng(1).permutation(exact)
    assert recall(similarities(exact), similarities(wrong), 10) < 0.3
    assert rank_correlation(similarities(exact), similarities(wrong)) < 0.2


def test_a_scale_for_each_vector_is_nearer_than_one_for_all(
    client: Client, sentences: list[str], exact: Array
) -> None:
    own = np.abs(embed(client, sentences, dtype="int8") - exact).mean()
    of_all = np.abs(np.rint(exact * 127) / 127 - exact).mean()
    assert own < of_all / 3


def test_first_dimensions_are_those_of_the_whole_vector(
    client: Client, sentences: list[str], exact: Array
) -> None:
    few = embed(client, sentences[:20], dimensions=100)
    expected = exact[:20, :100] / np.linalg.norm(exact[:20, :100], axis=1, keepdims=True)
    np.testing.assert_allclose(few, expected, atol=1e-6)
    raw = embed(client, sentences[:20], dimensions=100, normalize=False)
    whole = embed(client, sentences[:20], normalize=False)
    assert np.array_equal(raw, whole[:, :100])


def test_truncated_texts_are_read_as_the_tokenizer_cuts_them(
    client: Client, sentences: list[str]
) -> None:
    long = " ".join(sentences[:12])
    library = Tokenizer.from_file(str(resolve(NAME, Path()) / "tokenizer.json"))
    library.no_padding()
    library.enable_truncation(256)
    cut, short = client.embed_each([long, "short"], truncate=True)
    assert isinstance(cut, TextEmbedding)
    assert (cut.truncated, cut.num_tokens) == (True, 256)
    np.testing.assert_array_equal(cut.vectors, client.embed([library.encode(long).ids])[0])
    assert isinstance(short, TextEmbedding)
    assert not short.truncated
    refused, fine = client.embed_each([long, "short"])
    assert isinstance(refused, FailedItem)
    assert "the model takes 256" in refused.message
    assert isinstance(fine, TextEmbedding)


def test_spans_of_rewritten_words_pool_their_own_tokens(client: Client) -> None:
    """The rows of EmbedTokens, put together by hand."""
    text = "Das 한국 is a cafe\u0301, 👩\u200d👩\u200d👧 שָׁלוֹם"
    words = ["한국", "cafe\u0301", "👩\u200d👩\u200d👧", "שָׁלוֹם"]
    spans = [(text.index(word), text.index(word) + len(word)) for word in words]
    pooled = client.embed_spans(text, spans, normalize=False, pooling="mean")
    table = client.embed_tokens(text)
    for vector, (start, end) in zip(pooled, spans, strict=True):
        rows = [i for i, (a, b) in enumerate(table.offsets) if start <= a < b <= end]
        np.testing.assert_allclose(vector, table.vectors[0, rows].mean(0), atol=1e-5)
