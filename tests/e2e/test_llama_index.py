"""LlamaIndex over a real server with the real all-MiniLM-L6-v2, beside sentence-transformers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import TextNode
from pydantic import ValidationError

from headstream.client import AsyncClient, Client, EmbedError, NotFound
from headstream.client.llama_index import HeadstreamEmbedding
from server_process import Server

TEXTS = {
    "cat": "The cat sat on the mat.",
    "stocks": "Stocks fell sharply on Monday.",
    "recipe": "The recipe needs two eggs and flour.",
    "rocket": "A rocket was launched into orbit.",
}
QUESTIONS = {
    "a kitten resting": "cat",
    "the share prices": "stocks",
    "how to bake a cake": "recipe",
    "space": "rocket",
}


@pytest.fixture(scope="module")
def client(minilm_server: Server) -> Generator[Client]:
    with Client(minilm_server.address) as client:
        yield client


@pytest.fixture(params=["thread", "own client"])
async def embedding(
    request: pytest.FixtureRequest, minilm_server: Server, client: Client
) -> AsyncGenerator[HeadstreamEmbedding]:
    """Whose async methods have no client of their own, or one."""
    if request.param == "thread":
        yield HeadstreamEmbedding(client)
        return
    async with AsyncClient(minilm_server.address) as own:
        yield HeadstreamEmbedding(client, async_client=own)


async def test_vectors_equal_sentence_transformers(
    embedding: HeadstreamEmbedding, minilm_reference: Any
) -> None:
    texts = [f"{text} {number}" for number in range(17) for text in TEXTS.values()]
    expected = minilm_reference.encode(texts)
    found = embedding.get_text_embedding_batch(texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert await embedding.aget_text_embedding_batch(texts) == found
    assert embedding.get_text_embedding(texts[3]) == found[3]
    assert await embedding.aget_text_embedding(texts[3]) == found[3]
    assert embedding.get_query_embedding(texts[3]) == found[3]
    assert await embedding.aget_query_embedding(texts[3]) == found[3]


async def test_an_index_finds_what_is_meant(embedding: HeadstreamEmbedding) -> None:
    nodes = [TextNode(id_=name, text=text) for name, text in TEXTS.items()]
    index = VectorStoreIndex(nodes, embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=1)
    for question, name in QUESTIONS.items():
        assert [hit.node.node_id for hit in retriever.retrieve(question)] == [name]
        assert [hit.node.node_id for hit in await retriever.aretrieve(question)] == [name]


def test_what_is_written_of_it_tells_how_vectors_are_made(client: Client) -> None:
    """The cache of an ingestion pipeline goes by it."""
    embedding = HeadstreamEmbedding(client)
    info = client.model()
    written = embedding.to_dict()
    assert written["class_name"] == "HeadstreamEmbedding"
    assert (embedding.model_name, written["weights_sha256"]) == (
        info.name,
        info.fingerprint.weights_sha256,
    )
    nodes = [TextNode(text="a")]
    same, other = HeadstreamEmbedding(client), HeadstreamEmbedding(client, dimensions=64)
    assert get_transformation_hash(nodes, same) == get_transformation_hash(nodes, embedding)
    assert get_transformation_hash(nodes, other) != get_transformation_hash(nodes, embedding)
    assert len(other.get_query_embedding("a")) == 64


async def test_errors_are_those_of_the_client(
    embedding: HeadstreamEmbedding, client: Client
) -> None:
    long = "one two " * 200
    with pytest.raises(EmbedError, match=r"text 1: .*the model takes 256"):
        embedding.get_text_embedding_batch(["a", long])
    with pytest.raises(EmbedError, match="empty"):
        await embedding.aget_query_embedding("")
    with pytest.raises(NotFound, match="another"):
        HeadstreamEmbedding(client, model="another")
    with pytest.raises(ValueError, match="dimensions is 0"):
        HeadstreamEmbedding(client, dimensions=0)
    with pytest.raises(ValidationError, match="pooling"):
        HeadstreamEmbedding(client, pooling="sum")
    cut = HeadstreamEmbedding(client, truncate=True)
    assert len(cut.get_text_embedding(long)) == 384
