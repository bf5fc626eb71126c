"""A served model as `Embeddings` of LangChain.

pip install headstream[langchain]

from headstream.client.langchain import HeadstreamEmbeddings

store = InMemoryVectorStore(HeadstreamEmbeddings(Client("localhost:50051")))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from langchain_core.embeddings import Embeddings

from headstream.client._retrieval_model import RetrievalModel

if TYPE_CHECKING:
    from headstream.client._async_client import AsyncClient
    from headstream.client._client import Client
    from headstream.client._embed_requests import VectorOptions

__all__ = ["HeadstreamEmbeddings"]


class HeadstreamEmbeddings(Embeddings):
    """A model that a Headstream server serves. Threads may share it.

    Every method raises an `RpcError` when its call fails, and an `EmbedError` where a text could
    not be embedded, such as one that is empty, or too long without `truncate`.

    Args:
        client: Whose server it is; it is the caller's to close.
        async_client: For the async methods, of the loop that awaits them. None: threads and
            `client`.
        model: Name of the model; empty for the server's first.
        query_prompt: Put before queries. None: the model's own prompt `query`, if it has one.
        document_prompt: Put before documents. None: the model's own prompt `document`.
        options: How vectors are made; `Client.embed` explains.

    Raises:
        NotFound: The server has no model of that name.
        ValueError: An option is an unknown word or out of its range.
    """

    def __init__(
        self,
        client: Client,
        *,
        async_client: AsyncClient | None = None,
        model: str = "",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        **options: Unpack[VectorOptions],
    ) -> None:
        self._model = RetrievalModel(
            client,
            model,
            async_client=async_client,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            **options,
        )

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text; any number of them."""
        return self._model.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        return self._model.embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`."""
        return await self._model.aembed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`."""
        return await self._model.aembed_query(text)
