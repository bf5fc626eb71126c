# ruff: noqa: ASYNC109 - `timeout` is the deadline of the call, which the server is told too
"""The async client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, Unpack, overload

from headstream.client import _embed_requests, _replies, _requests, _text_embedding
from headstream.client._async_connection import AsyncConnection
from headstream.client._async_decoding import AsyncDecoding
from headstream.client._async_embed_stream import AsyncEmbedStreaming
from headstream.client._async_looking import AsyncLooking
from headstream.client._base import BaseClient
from headstream.client._decode_rows import ARRAYS, TOP_LOGITS
from headstream.client._generation import AsyncGeneration
from headstream.client._prefix import PrefixSharing
from headstream.client._results import Array, TopLogits
from headstream.v1 import model_service_pb2 as model_pb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from headstream.client._attempts import Attempts
    from headstream.client._channel import Target
    from headstream.client._embed_requests import EmbedOptions, Spans, SpanUnit, TokenOptions
    from headstream.client._inputs import Text
    from headstream.client._requests import ScoreOptions
    from headstream.client._results import (
        ModelInfo,
        StaticEmbeddings,
        TextScores,
        TokenEmbeddings,
        TokenTable,
    )
    from headstream.client._tensors import FloatType
    from headstream.client._text_embedding import EmbedResult
    from headstream.v1 import logits_service_pb2 as logits_pb


class AsyncClient(
    PrefixSharing[AsyncConnection],
    AsyncEmbedStreaming,
    AsyncLooking,
    BaseClient[AsyncGeneration, AsyncDecoding[Array], AsyncDecoding[TopLogits]],
):
    """`Client` for asyncio; make it inside the running loop, where its tasks may share it.

    Every method raises an `RpcError` when its call fails; the subclass says how.

        async with AsyncClient("localhost:50051") as client:
            async for step in client.generate("So long and thanks for all the", logits="top"):
                print(step.text, step.logprob)
    """

    def _open(self, target: Target) -> None:
        self._rpc = AsyncConnection(target)

    async def embed(
        self,
        texts: str | Sequence[Text],
        *,
        model: str = "",
        timeout: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Array:
        """One vector per text. As `Client.embed`."""
        wanted = _embed_requests.embed_options(**options)
        request = _embed_requests.embed(texts, wanted, model=model)
        reply = await self._rpc.call(self._rpc.embeddings.Embed, request, timeout)
        vectors = _replies.embeddings(reply)
        return vectors[0] if isinstance(texts, str) else vectors

    async def embed_spans(
        self,
        text: str,
        spans: Spans,
        *,
        unit: SpanUnit = "char",
        model: str = "",
        timeout: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Array:
        """One vector per part of a text. As `Client.embed_spans`."""
        wanted = _embed_requests.embed_options(**options, unit=unit)
        request = _embed_requests.embed_spans(text, spans, wanted, model=model)
        reply = await self._rpc.call(self._rpc.embeddings.Embed, request, timeout)
        vectors: Array = _replies.embeddings(reply)[0]
        return vectors

    async def embed_each(
        self,
        texts: Sequence[Text],
        *,
        spans: Sequence[Spans] = (),
        unit: SpanUnit = "char",
        model: str = "",
        timeout: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> list[EmbedResult]:
        """As `embed`; a bad text is told in its place. As `Client.embed_each`."""
        wanted = _embed_requests.embed_options(**options, unit=unit)
        request = _embed_requests.embed(texts, wanted, model=model, spans=spans)
        reply = await self._rpc.call(self._rpc.embeddings.Embed, request, timeout)
        return _text_embedding.read_results(reply.results)

    async def embed_tokens(
        self,
        text: Text,
        *,
        timeout: float | None = None,
        **options: Unpack[TokenOptions],
    ) -> TokenEmbeddings:
        """The contextual embedding of every token. As `Client.embed_tokens`."""
        request = _embed_requests.embed_tokens(text, **options)
        return await self._rpc.embed_tokens(request, timeout)

    async def lookup(
        self,
        text: Text,
        *,
        model: str = "",
        dtype: FloatType = "float32",
        timeout: float | None = None,
    ) -> StaticEmbeddings:
        """The static embedding of every token. As `Client.lookup`."""
        request = _embed_requests.lookup(text, dtype=dtype, model=model)
        reply = await self._rpc.call(self._rpc.embeddings.LookupEmbeddings, request, timeout)
        return _replies.static_embeddings(reply)

    @overload
    async def score(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, text: Text, *, timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> TextScores: ...  # a string is one text, not a sequence of letters

    @overload
    async def score(
        self, text: Sequence[Text], *, timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> list[TextScores]: ...

    async def score(
        self,
        text: Text | Sequence[Text],
        *,
        timeout: float | None = None,
        **options: Unpack[ScoreOptions],
    ) -> TextScores | list[TextScores]:
        """How likely each token of a text is. As `Client.score`."""
        request = _requests.score(text, **options)
        results = await self._rpc.score(request, timeout)
        return results[0] if _requests.is_single(text) else results

    async def tokenize(
        self,
        text: str,
        *,
        model: str = "",
        skip_special_tokens: bool = False,
        timeout: float | None = None,
    ) -> TokenTable:
        """The tokens of a text, exactly as the model would read it."""
        request = _requests.tokenize(text, model=model, skip_special_tokens=skip_special_tokens)
        reply = await self._rpc.call(self._rpc.tokenizer.Tokenize, request, timeout)
        return _replies.token_table(reply.tokens)

    async def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool = True,
        timeout: float | None = None,
    ) -> str:
        """The text of tokens; bytes that form no character become U+FFFD."""
        request = _requests.detokenize(
            token_ids, model=model, skip_special_tokens=skip_special_tokens
        )
        reply = await self._rpc.call(self._rpc.tokenizer.Detokenize, request, timeout)
        return reply.text

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """All models of the server; the first is the one that an empty name means."""
        reply = await self._rpc.call(
            self._rpc.models.ListModels, model_pb.ListModelsRequest(), timeout
        )
        return [_replies.model_info(model) for model in reply.models]

    async def model(self, name: str = "", *, timeout: float | None = None) -> ModelInfo:
        """One model: its sizes, limits and capabilities.

        Raises:
            NotFound: The server has no model of that name.
        """
        reply = await self._rpc.call(
            self._rpc.models.GetModel, model_pb.GetModelRequest(model=name), timeout
        )
        return _replies.model_info(reply.model)

    async def close(self) -> None:
        """End all calls and the connection."""
        await self._rpc.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _generate(self, attempts: Attempts, timeout: float | None) -> AsyncGeneration:
        return AsyncGeneration(self._rpc.generate, self._rpc.connect, attempts, timeout)

    def _decode(self, opening: logits_pb.DecodeOpen, timeout: float | None) -> AsyncDecoding[Array]:
        return AsyncDecoding(lambda: self._rpc.decode(timeout), opening, ARRAYS)

    def _decode_top(
        self, opening: logits_pb.DecodeOpen, timeout: float | None
    ) -> AsyncDecoding[TopLogits]:
        return AsyncDecoding(lambda: self._rpc.decode(timeout), opening, TOP_LOGITS)
