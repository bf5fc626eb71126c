"""A served model as `BaseEmbedding` of LlamaIndex.

pip install headstream[llama-index]

from headstream.client.llama_index import HeadstreamEmbedding

embed_model = HeadstreamEmbedding(Client("localhost:50051"))
index = VectorStoreIndex(nodes, embed_model=embed_model)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr

from headstream.client._embed_requests import PoolingName
from headstream.client._retrieval_model import RetrievalModel

if TYPE_CHECKING:
    from headstream.client._async_client import AsyncClient
    from headstream.client._client import Client

__all__ = ["HeadstreamEmbedding"]


class HeadstreamEmbedding(BaseEmbedding):
    """A model that a Headstream server serves. Threads may share it.

    Every method raises an `RpcError` when its call fails, and an `EmbedError` where a text could
    not be embedded, such as one that is empty, or too long without `truncate`.

    Args:
        client: Whose server it is; it is the caller's to close.
        async_client: For the async methods, of the loop that awaits them. None: threads and
            `client`.
        model: Name of the model; empty for the server's first.
        fields: Those below, and those of `BaseEmbedding`. They are what is written of it, so that
            a cache of an ingestion pipeline keeps apart what was embedded in another way, or by
            other weights.

    Raises:
        NotFound: The server has no model of that name.
        ValueError: A field is an unknown word or out of its range.
    """

    query_prompt: str | None = Field(
        default=None,
        description="Put before queries. None: the model's own prompt `query`, if it has one.",
    )
    document_prompt: str | None = Field(
        default=None,
        description="Put before texts. None: the model's own prompt `document`, if it has one.",
    )
    pooling: PoolingName = Field(default="model", description="As of `Client.embed`, and so on.")
    layer: int = -1
    normalize: bool | None = None
    dimensions: int | None = None
    truncate: bool = False
    weights_sha256: str = Field(default="", description="Of the fingerprint of the served model.")
    embed_batch_size: int = Field(
        default=2048,
        gt=0,
        le=2048,
        description="Texts that are handed to the server together, which packs them by itself.",
    )

    _served: RetrievalModel = PrivateAttr()

    def __init__(
        self,
        client: Client,
        *,
        async_client: AsyncClient | None = None,
        model: str = "",
        **fields: Any,
    ) -> None:
        super().__init__(**fields)
        self._served = RetrievalModel(
            client,
            model,
            async_client=async_client,
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            pooling=self.pooling,
            layer=self.layer,
            normalize=self.normalize,
            dimensions=self.dimensions,
            truncate=self.truncate,
        )
        info = self._served.model.info
        self.model_name = info.name
        self.weights_sha256 = info.fingerprint.weights_sha256

    @classmethod
    def class_name(cls) -> str:
        """What is written of it."""
        return "HeadstreamEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._served.embed_documents(texts)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._served.embed_documents([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._served.embed_query(query)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._served.aembed_documents(texts)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._served.aembed_documents([text]))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await self._served.aembed_query(query)
