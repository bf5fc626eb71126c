"""A served model as frameworks for retrieval use one: queries and documents in, lists out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from headstream.client._text_model import TextModel, own_prompt

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
        options = _given(self._document_prompt) or own_prompt(self.model.info, "document")
        vectors: list[list[float]] = self.model.embed(texts, **options).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query, d floats."""
        options = _given(self._query_prompt) or own_prompt(self.model.info, "query")
        floats: list[float] = self.model.embed([text], **options)[0].tolist()
        return floats

    async def aembed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """As `embed_documents`."""
        options = _given(self._document_prompt) or own_prompt(await self.model.ainfo(), "document")
        vectors = await self.model.aembed(texts, **options)
        rows: list[list[float]] = vectors.tolist()
        return rows

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`."""
        options = _given(self._query_prompt) or own_prompt(await self.model.ainfo(), "query")
        vectors = await self.model.aembed([text], **options)
        floats: list[float] = vectors[0].tolist()
        return floats


def _given(prompt: str | None) -> EmbedOptions:
    """A prompt that the caller has set; nothing where it is the model's to say."""
    return {} if prompt is None else {"prompt": prompt}
