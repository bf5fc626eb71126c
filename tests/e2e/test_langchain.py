"""LangChain over a real server with the real all-MiniLM-L6-v2, beside sentence-transformers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from headstream.client import AsyncClient, Client, EmbedError, NotFound
from headstream.client.langchain import HeadstreamEmbeddings
from server_process import Server

TEXTS = [
    "The cat sat on the mat.",
    "Stocks fell sharply on Monday.",
    "The recipe needs two eggs and flour.",
    "A rocket was launched into orbit.",
]
QUESTIONS = {"a kitten resting": 0, "the share prices": 1, "how to bake a cake": 2, "space": 3}
LONG = "one two " * 200


@pytest.fixture(scope="module")
def client(minilm_server: Server) -> Generator[Client]:
    with Client(minilm_server.address) as client:
        yield client


@pytest.fixture(params=["thread", "own client"])
async def embeddings(
    request: pytest.FixtureRequest, minilm_server: Server, client: Client
) -> AsyncGenerator[HeadstreamEmbeddings]:
    """Whose async methods have no client of their own, or one."""
    if request.param == "thread":
        yield HeadstreamEmbeddings(client)
        return
    async with AsyncClient(minilm_server.address) as own:
        yield HeadstreamEmbeddings(client, async_client=own)


async def test_vectors_equal_sentence_transformers(
    embeddings: HeadstreamEmbeddings, minilm_reference: Any
) -> None:
    assert isinstance(embeddings, Embeddings)
    texts = [f"{text} {number}" for number in range(17) for text in TEXTS]  # a stream of them
    expected = minilm_reference.encode(texts)
    found = embeddings.embed_documents(texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert await embeddings.aembed_documents(texts) == found
    query = embeddings.embed_query(texts[3])
    np.testing.assert_allclose(query, expected[3], atol=1e-5)
    assert await embeddings.aembed_query(texts[3]) == query
    assert type(query) is list
    assert type(query[0]) is float


async def test_a_store_finds_what_is_meant(embeddings: HeadstreamEmbeddings) -> None:
    store = InMemoryVectorStore(embeddings)
    documents = [Document(text, metadata={"at": at}) for at, text in enumerate(TEXTS)]
    store.add_documents(documents[:2])
    await store.aadd_documents(documents[2:])
    for question, at in QUESTIONS.items():
        assert store.similarity_search(question, k=1)[0].metadata["at"] == at
        assert (await store.asimilarity_search(question, k=1))[0].metadata["at"] == at
    [(document, score)] = store.similarity_search_with_score(TEXTS[0], k=1)
    assert document.page_content == TEXTS[0]
    assert score == pytest.approx(1, abs=1e-5)


async def test_errors_are_those_of_the_client(
    embeddings: HeadstreamEmbeddings, client: Client, minilm_reference: Any
) -> None:
    with pytest.raises(EmbedError, match=r"text 1: .*the model takes 256"):
        embeddings.embed_documents(["a", LONG])
    with pytest.raises(EmbedError, match=r"text 1: .*the model takes 256"):
        await embeddings.aembed_documents(["a", LONG])
    with pytest.raises(EmbedError, match="empty"):
        await embeddings.aembed_query("")
    assert embeddings.embed_documents([]) == []
    with pytest.raises(NotFound, match="another"):
        HeadstreamEmbeddings(client, model="another")
    cut = HeadstreamEmbeddings(client, truncate=True, dimensions=100).embed_query(LONG)
    expected = minilm_reference.encode(LONG, truncate_dim=100, normalize_embeddings=True)
    np.testing.assert_allclose(cut, expected, atol=1e-5)
