"""A served model as frameworks for retrieval use one: queries and documents in, lists out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from headstream.client._text_model import TextModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstream.client._async_client import AsyncClient
    from headstream.client._client import Client
    from headstream.client._embed_requests import EmbedOptions, VectorOptions


class RetrievalModel:
    """One model of a server, with what goes before queries and before documents.

    Every method raises what `TextModel.embed` does. The arguments are those of `TextModel`, and:

    Args:
        query_prompt: Put before queries. None: the model's own prompt `query`, if it has one.
        document_prompt: Put before documents. None: the model's own prompt `document`.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        *,
        async_client: AsyncClient | None,
        query_prompt: str | None,
        document_prompt: str | None,
        **options: Unpack[VectorOptions],
    ) -> None:
        self.model = TextModel(client, name, async_client=async_client, **options)
        self._query_prompt = query_prompt
        self._document_prompt = document_prompt

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector of d floats for each text; any number of them."""
        vectors: list[list[float]] = self.model.embed(texts, **self._for_documents()).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query, d floats."""
        floats: list[float] = self.model.embed([text], **self._for_queries())[0].tolist()
        return floats

    async def aembed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """As `embed_documents`."""
        vectors = await self.model.aembed(texts, **self._for_documents())
        rows: list[list[float]] = vectors.tolist()
        return rows

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`."""
        vectors = await self.model.aembed([text], **self._for_queries())
        floats: list[float] = vectors[0].tolist()
        return floats

    def _for_queries(self) -> EmbedOptions:
        if self._query_prompt is None:
            return self.model.own_prompt("query")
        return {"prompt": self._query_prompt}

    def _for_documents(self) -> EmbedOptions:
        if self._document_prompt is None:
            return self.model.own_prompt("document")
        return {"prompt": self._document_prompt}
