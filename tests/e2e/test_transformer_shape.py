"""The shape of a `SentenceTransformer` over a real server, beside that library; real weights."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import util
from sentence_transformers.sentence_transformer import evaluation

import labelled_texts
from headstream.client import Client, EmbedError, InvalidArgument, NotFound
from headstream.client.sentence_transformers import HeadstreamTransformer
from server_process import Server

LONG = "one two " * 200
TEXTS = ["The cat sat on the mat.", LONG, "  Stocks\nfell. ", "naïve cafés, 日本語 🐔", "a"]


@pytest.fixture(scope="module")
def model(minilm_server: Server) -> Generator[HeadstreamTransformer]:
    with Client(minilm_server.address) as client:
        yield HeadstreamTransformer(client)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_size": 2, "show_progress_bar": False, "device": "cpu", "precision": None},
    {"normalize_embeddings": True},
    {"prompt": "Find: "},
    {"prompt": "Find: ", "prompt_name": "what it is called does not count then"},
    {"truncate_dim": 100},
    {"truncate_dim": 100, "normalize_embeddings": True},
    {"truncate_dim": 4000},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_vectors_equal_the_library(
    model: HeadstreamTransformer, minilm_reference: Any, options: dict[str, Any]
) -> None:
    found = model.encode(TEXTS, **options)
    expected = minilm_reference.encode(TEXTS, **options)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dim", [None, 64])
@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_are_packed_as_the_library_does(
    model: HeadstreamTransformer, precision: Any, dim: int | None
) -> None:
    found = model.encode(TEXTS, precision=precision, truncate_dim=dim)
    values = model.encode(TEXTS, truncate_dim=dim)
    expected: Any = util.quantize_embeddings(values, precision=precision)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_any_number_of_texts_in_any_container(
    model: HeadstreamTransformer, minilm_reference: Any
) -> None:
    texts = [f"{text} {number}" for number in range(17) for text in TEXTS[:1] + TEXTS[2:]]
    expected = minilm_reference.encode(texts)
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-5)
    np.testing.assert_allclose(model.encode(np.array(texts[:3])), expected[:3], atol=1e-5)
    np.testing.assert_allclose(model.encode(tuple(texts[:3])), expected[:3], atol=1e-5)
    np.testing.assert_allclose(model.encode(texts[0]), expected[0], atol=1e-5)
    assert model.encode([]).shape == (0, 384)
    assert model.encode([], precision="binary").shape == (0, 48)


def test_tensors_where_they_are_asked_for(
    model: HeadstreamTransformer, minilm_reference: Any
) -> None:
    ways: list[dict[str, Any]] = [{"convert_to_tensor": True}, {"convert_to_numpy": False}]
    for options in ways:
        for texts in (TEXTS, TEXTS[0]):
            found = model.encode(texts, **options)
            expected = minilm_reference.encode(texts, **options)
            assert type(found) is type(expected)
            for row, wanted in zip(found, expected, strict=True):
                torch.testing.assert_close(row, wanted, atol=1e-5, rtol=0)
    [hits] = util.semantic_search(
        model.encode("a kitten", convert_to_tensor=True),
        model.encode(TEXTS, convert_to_tensor=True),
    )
    assert hits[0]["corpus_id"] == 0


def test_a_bar_is_shown_if_it_is_asked_for(
    model: HeadstreamTransformer, capsys: pytest.CaptureFixture[str]
) -> None:
    model.encode(["a"] * 100)
    assert capsys.readouterr().err == ""
    model.encode(["a"] * 100, show_progress_bar=True)
    assert "100/100" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cosine", "dot"])
def test_similarities_equal_the_library(minilm_server: Server, name: Any) -> None:
    with Client(minilm_server.address) as client:
        model = HeadstreamTransformer(client, similarity_fn_name=name)
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(5, 8)).astype(np.float32) for _ in range(2))
    first[2] = 0
    library = {"cosine": util.cos_sim, "dot": util.dot_score}[name]
    pairs = {"cosine": util.pairwise_cos_sim, "dot": util.pairwise_dot_score}[name]
    ways: list[Any] = [
        np.asarray,
        torch.from_numpy,
        list,
        lambda rows: list(torch.from_numpy(rows)),
    ]
    for convert in ways:
        found = model.similarity(convert(first), convert(second[:3]))
        np.testing.assert_allclose(found, library(first, second[:3]), atol=1e-6)
        paired = model.similarity_pairwise(convert(first), convert(second))
        np.testing.assert_allclose(paired, pairs(first, second), atol=1e-6)
        of_tensors = convert not in (np.asarray, list)
        assert isinstance(found, torch.Tensor if of_tensors else np.ndarray)
        assert type(paired) is type(found)
    alone = model.similarity(first[0], second)
    np.testing.assert_allclose(alone, library(first[0], second), atol=1e-6)
    assert model.similarity(first[:0], second).shape == (0, 5)


def test_evaluators_of_the_library_take_it(
    model: HeadstreamTransformer, minilm_reference: Any
) -> None:
    """Search with tensors, and pairs of texts in numpy."""
    queries, documents, relevant = labelled_texts.headed_sections(150)
    few: dict[str, Any] = dict(list(documents.items())[:24])
    about = {query: found & set(few) for query, found in relevant.items()}
    asked: dict[str, Any] = dict(queries)
    search: Any = evaluation.InformationRetrievalEvaluator(asked, few, about, write_csv=False)
    texts, labels = labelled_texts.docstrings(4)
    other = texts[1:] + texts[:1]
    alike = [float(a == b) for a, b in zip(labels, labels[1:] + labels[:1], strict=True)]
    pairs: Any = evaluation.EmbeddingSimilarityEvaluator(texts, other, alike, write_csv=False)
    for evaluator in (search, pairs):
        assert evaluator(model) == pytest.approx(evaluator(minilm_reference), abs=1e-3)


def test_what_it_says_of_itself(
    minilm_server: Server, model: HeadstreamTransformer, minilm_reference: Any
) -> None:
    assert model.max_seq_length == minilm_reference.max_seq_length == 256
    assert model.get_embedding_dimension() == minilm_reference.get_embedding_dimension() == 384
    assert model.get_sentence_embedding_dimension() == 384
    assert model.similarity_fn_name == minilm_reference.similarity_fn_name
    assert (model.prompts, model.default_prompt_name) == ({}, None)
    with Client(minilm_server.address) as client:
        small = HeadstreamTransformer(client, truncate_dim=64)
        assert small.get_embedding_dimension() == 64
        assert small.encode("a").shape == (64,)
        assert small.encode("a", truncate_dim=32).shape == (32,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_value": "token_embeddings"}, "output_value 'token_embeddings'"),
        ({"precision": "int8"}, "precision 'int8'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"truncate_dim": 0}, "truncate_dim is 0"),
    ],
)
def test_what_is_not_there_is_refused(
    model: HeadstreamTransformer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode(["a"], **options)


def test_errors_are_those_of_the_client(
    minilm_server: Server, model: HeadstreamTransformer
) -> None:
    with pytest.raises(EmbedError, match=r"text 1: .*empty"):
        model.encode(["a", ""])
    with pytest.raises(InvalidArgument, match="prompt_name: 'passage' is no prompt"):
        model.encode(["a"], prompt_name="passage")
    with pytest.raises(TypeError, match=r"texts\[1\] is of type tuple"):
        model.encode(["a", ("a", "pair")])  # type: ignore[list-item]
    with Client(minilm_server.address) as client:
        with pytest.raises(NotFound, match="another"):
            HeadstreamTransformer(client, model="another")
        with pytest.raises(ValueError, match="similarity_fn_name 'manhattan' is none of"):
            HeadstreamTransformer(client, similarity_fn_name="manhattan")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="truncate_dim is -1"):
            HeadstreamTransformer(client, truncate_dim=-1)
