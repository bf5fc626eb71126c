"""A served model as other libraries use one: texts in, vectors in their order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, TypeAlias, Unpack

import numpy as np

from headstream.client._embed_requests import embed_options
from headstream.client._errors import EmbedError, FailedItem
from headstream.client._stream_items import BATCH_BYTES, BATCH_ITEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headstream.client._async_client import AsyncClient
    from headstream.client._client import Client
    from headstream.client._embed_requests import EmbedOptions, VectorOptions
    from headstream.client._results import Array, ModelInfo

Kind: TypeAlias = Literal["query", "document"]


class TextModel:
    """One model of a server, and how it makes vectors. Threads may share it.

    Every method raises an `RpcError` when its call fails.

    Args:
        client: Whose server it is.
        name: Name of the model; empty for the server's first.
        async_client: For `aembed`, of the loop that awaits it. None: a thread uses `client`.
        options: How vectors are made; `Client.embed` explains.

    Raises:
        NotFound: There is no such model.
        ValueError: An option is an unknown word or out of its range.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        *,
        async_client: AsyncClient | None = None,
        **options: Unpack[VectorOptions],
    ) -> None:
        embed_options(**options)  # a wrong one is refused now, not with the first text
        self._client = client
        self._async_client = async_client
        self._name = name
        self._options = options
        self._info = client.model(name)

    @property
    def info(self) -> ModelInfo:
        """What the server says of the model; asked again until it serves."""
        if self._info.state != "serving":
            self._info = self._client.model(self._name)
        return self._info

    @property
    def dimensions(self) -> int:
        """Most dimensions of a vector."""
        return _dimensions(self.info)

    async def ainfo(self) -> ModelInfo:
        """As `info`; the loop runs on while the server is asked."""
        if self._info.state != "serving":
            client = self._async_client
            self._info = (
                await asyncio.to_thread(self._client.model, self._name)
                if client is None
                else await client.model(self._name)
            )
        return self._info

    def embed(
        self,
        texts: Sequence[str],
        answered: Callable[[int], object] | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Array:
        """Vectors of the texts: few in one call, many in a stream.

        Args:
            texts: Any number.
            answered: Called with a number of texts whenever so many more are done.
            options: Besides those of the model, or instead.

        Returns:
            [n, d], float32 unless `dtype` says otherwise.

        Raises:
            EmbedError: A text could not be embedded. Of few, it lists all such texts; of many, the
                first that was found, and the others are left.
            TypeError: `texts` is not a list of strings.
        """
        _check(texts)
        wanted: EmbedOptions = {**self._options, **options}
        info = self.info
        if not texts:
            return _nothing(info, wanted)
        if _is_one_call(info, texts):
            vectors = self._client.embed(texts, model=self._name, **wanted)
            if answered is not None:
                answered(len(texts))
            return vectors
        rows = _Rows(len(texts))
        with self._client.embed_stream(texts, model=self._name, **wanted) as stream:
            for number, vector in stream:
                rows.put(number, vector)
                if answered is not None:
                    answered(1)
        return rows.vectors

    async def aembed(self, texts: Sequence[str], **options: Unpack[EmbedOptions]) -> Array:
        """As `embed`."""
        client = self._async_client
        if client is None:
            return await asyncio.to_thread(self.embed, texts, **options)
        _check(texts)
        wanted: EmbedOptions = {**self._options, **options}
        info = await self.ainfo()
        if not texts:
            return _nothing(info, wanted)
        if _is_one_call(info, texts):
            return await client.embed(texts, model=self._name, **wanted)
        rows = _Rows(len(texts))
        async with client.embed_stream(texts, model=self._name, **wanted) as stream:
            async for number, vector in stream:
                rows.put(number, vector)
        return rows.vectors


def own_prompt(info: ModelInfo, kind: Kind) -> EmbedOptions:
    """A model's own prompt for texts of a kind; where it has none, none is put before them.

    As `encode_query` and `encode_document` of sentence-transformers.
    """
    if kind in info.embedding.prompts:
        return {"prompt_name": kind}
    return {"prompt": ""}


def _dimensions(info: ModelInfo) -> int:
    return info.embedding_choices.max_dimensions or info.sizes.dimensions


def _nothing(info: ModelInfo, wanted: EmbedOptions) -> Array:
    """The vectors of no texts."""
    width = wanted.get("dimensions") or _dimensions(info)
    if wanted.get("dtype") == "binary":
        return np.empty((0, -(-width // 8)), np.uint8)
    return np.empty((0, width), np.float32)


def _is_one_call(info: ModelInfo, texts: Sequence[str]) -> bool:
    """Whether the server takes them together, and a stream would have sent them so."""
    return len(texts) <= min(BATCH_ITEMS, info.limits.max_inputs) and (
        sum(map(len, texts)) <= BATCH_BYTES
    )


class _Rows:
    """Vectors as they come, put in the order of their texts."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.vectors: Array = np.empty((count, 0), np.float32)  # [n, d], once the first is here

    def put(self, number: int, vector: Array | FailedItem) -> None:
        """The vector [d] of a text.

        Raises:
            EmbedError: There is none.
        """
        if isinstance(vector, FailedItem):
            raise EmbedError([vector])
        if not self.vectors.size:
            self.vectors = np.empty((self._count, len(vector)), vector.dtype)
        self.vectors[number] = vector


def _check(texts: Sequence[object]) -> None:
    """Token ids and chats are texts to the client, and mistakes in a list of documents.

    Raises:
        TypeError: They are not a list of strings.
    """
    if isinstance(texts, str):
        raise TypeError("texts is a string; it must be a list of strings")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] is of type {type(text).__name__}, not a string")
