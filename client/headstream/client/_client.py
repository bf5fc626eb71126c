"""The sync client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, Unpack, overload

from headstream.client import _embed_requests, _replies, _requests, _text_embedding
from headstream.client._base import BaseClient
from headstream.client._connection import Connection
from headstream.client._decode_rows import ARRAYS, TOP_LOGITS
from headstream.client._decoding import Decoding
from headstream.client._embed_stream import EmbedStreaming
from headstream.client._generation import Generation
from headstream.client._looking import Looking
from headstream.client._prefix import PrefixSharing
from headstream.client._results import Array, TopLogits
from headstream.v1 import model_service_pb2 as model_pb

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class Client(
    PrefixSharing[Connection],
    EmbedStreaming,
    Looking,
    BaseClient[Generation, Decoding[Array], Decoding[TopLogits]],
):
    """A connection to a Headstream server, or to several behind one name. Threads may share it.

    Every method raises an `RpcError` when its call fails; the subclass says how.

        with Client("localhost:50051") as client:
            for step in client.generate("So long and thanks for all the", logits="top"):
                print(step.text, step.logprob)
    """

    def _open(self, target: Target) -> None:
        self._rpc = Connection(target)

    def embed(
        self,
        texts: str | Sequence[Text],
        *,
        model: str = "",
        timeout: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Array:
        """One vector per text.

        Args:
            texts: A text, or several; each a string or token ids.
            model: Name of the model; empty for the server's first.
            timeout: Seconds; None for the client's.
            pooling: How the rows of the tokens become one: the "model"'s own way (the default; see
                `ModelInfo.embedding`), "mean" or "max" over those that are not special, "last" or
                "cls" (first) token.
            prompt: Put before each text that is a string; "" for none. None: the model's own
                default prompt, if it has one.
            prompt_name: One of the model's own prompts instead, such as "query".
            layer: Whose rows: 0 the embedding output, i after layer i, -1 after the final norm.
            normalize: Scale each vector to length 1. None: the model's own way.
            dimensions: Keep the first ones only, before normalizing.
            dtype: Of the vectors; bfloat16 arrives as float32, int8 without scales, binary packed.
            truncate: Keep the beginning of texts too long for the model instead of refusing them.
            interventions: Changes to the model, as of `trace`.
            priority: "batch" for work in the background, "normal", or "high" where somebody waits.

        Returns:
            [d] for a single string, [n, d] for a list.

        Raises:
            EmbedError: Some texts could not be embedded; it lists them.
            ValueError: An argument is an unknown word, or there are two prompts.
        """
        wanted = _embed_requests.embed_options(**options)
        request = _embed_requests.embed(texts, wanted, model=model)
        reply = self._rpc.call(self._rpc.embeddings.Embed, request, timeout)
        vectors = _replies.embeddings(reply)
        return vectors[0] if isinstance(texts, str) else vectors

    def embed_spans(
        self,
        text: str,
        spans: Spans,
        *,
        unit: SpanUnit = "char",
        model: str = "",
        timeout: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Array:
        """One vector per part of a text, each from tokens that have read the text up to there.

        `spans` are [start, end) in Python string indices, or in UTF-8 bytes with `unit="byte"`.
        `pooling` goes over the tokens of a span. The other arguments are those of `embed`.

        Returns:
            [number of spans, d].

        Raises:
            EmbedError: The text could not be embedded.
            ValueError: There are no spans, or an argument is an unknown word.
        """
        wanted = _embed_requests.embed_options(**options, unit=unit)
        request = _embed_requests.embed_spans(text, spans, wanted, model=model)
        reply = self._rpc.call(self._rpc.embeddings.Embed, request, timeout)
        vectors: Array = _replies.embeddings(reply)[0]
        return vectors

    def embed_each(
        self,
        texts: Sequence[Text],
        *,
        spans: Sequence[Spans] = (),
        unit: SpanUnit = "char",
        model: str = "",
        timeout: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> list[EmbedResult]:
        """As `embed`, with what went wrong in its place, scales of int8, and how each was read.

        `spans` and `unit`: as of `embed_spans`, for each text.
        """
        wanted = _embed_requests.embed_options(**options, unit=unit)
        request = _embed_requests.embed(texts, wanted, model=model, spans=spans)
        reply = self._rpc.call(self._rpc.embeddings.Embed, request, timeout)
        return _text_embedding.read_results(reply.results)

    def embed_tokens(
        self, text: Text, *, timeout: float | None = None, **options: Unpack[TokenOptions]
    ) -> TokenEmbeddings:
        """The contextual embedding of every token, at the layers asked for.

        Args:
            text: A string or token ids.
            layers: 0 the embedding output, i after layer i, -1 after the final norm, -2 before it.
            model: Name of the model; empty for the server's first.
            dtype: How vectors travel; bfloat16 arrives as float32.
            skip_special_tokens: Leave out what the tokenizer adds, such as `<bos>`.
            interventions: Changes to the model, as of `trace`.
            priority: How urgent it is, as of `embed`.
            timeout: Seconds; None for the client's `stream_timeout`.

        Returns:
            The tokens with their offsets, and `vectors` [layers, n, d].

        Raises:
            StreamBroken: The stream ended early.
            ValueError: `dtype` is an unknown word.
        """
        request = _embed_requests.embed_tokens(text, **options)
        return self._rpc.embed_tokens(request, timeout)

    def lookup(
        self,
        text: Text,
        *,
        model: str = "",
        dtype: FloatType = "float32",
        timeout: float | None = None,
    ) -> StaticEmbeddings:
        """The static embedding of every token: rows of E, before any layer, without context.

        Args:
            text: A string, read without special tokens, or token ids.
            model: Name of the model; empty for the server's first.
            dtype: How rows travel; bfloat16 arrives as float32.
            timeout: Seconds; None for the client's.

        Returns:
            The token ids and `vectors` [n, d].
        """
        request = _embed_requests.lookup(text, dtype=dtype, model=model)
        reply = self._rpc.call(self._rpc.embeddings.LookupEmbeddings, request, timeout)
        return _replies.static_embeddings(reply)

    @overload
    def score(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, text: Text, *, timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> TextScores: ...  # a string is one text, not a sequence of letters

    @overload
    def score(
        self, text: Sequence[Text], *, timeout: float | None = None, **options: Unpack[ScoreOptions]
    ) -> list[TextScores]: ...

    def score(
        self,
        text: Text | Sequence[Text],
        *,
        timeout: float | None = None,
        **options: Unpack[ScoreOptions],
    ) -> TextScores | list[TextScores]:
        """How likely each token of a text is, given those before it (teacher forcing).

        Args:
            text: A text, or token ids taken as they are; or a list of such, which run together.
            model: Name of the model; empty for the server's first.
            logits: Of the row that scores each token: "none", "top", "full", or token ids.
            top_logits: How many with "top".
            logprobs: Log-probabilities (natural) instead of raw logits.
            logits_dtype: How they travel; bfloat16 arrives as float32.
            window_stride: Texts longer than the model's context C are read in windows of C tokens,
                each so many behind the last, and score what is new; a short stride reads the text
                many times. None: they are refused.
            skip_special_tokens: Leave out what the tokenizer adds, such as `<bos>`.
            interventions: Changes to the model, as of `trace`.
            priority: How urgent it is, as of `embed`.
            timeout: Seconds; None for the client's `stream_timeout`.

        Returns:
            Its scores; for a list of texts, a list of them.

        Raises:
            StreamBroken: The stream ended early.
            ValueError: `logits` or `logits_dtype` is an unknown word.
        """
        request = _requests.score(text, **options)
        results = self._rpc.score(request, timeout)
        return results[0] if _requests.is_single(text) else results

    def tokenize(
        self,
        text: str,
        *,
        model: str = "",
        skip_special_tokens: bool = False,
        timeout: float | None = None,
    ) -> TokenTable:
        """The tokens of a text, exactly as the model would read it."""
        request = _requests.tokenize(text, model=model, skip_special_tokens=skip_special_tokens)
        reply = self._rpc.call(self._rpc.tokenizer.Tokenize, request, timeout)
        return _replies.token_table(reply.tokens)

    def detokenize(
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
        reply = self._rpc.call(self._rpc.tokenizer.Detokenize, request, timeout)
        return reply.text

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """All models of the server; the first is the one that an empty name means."""
        reply = self._rpc.call(self._rpc.models.ListModels, model_pb.ListModelsRequest(), timeout)
        return [_replies.model_info(model) for model in reply.models]

    def model(self, name: str = "", *, timeout: float | None = None) -> ModelInfo:
        """One model: its sizes, limits and capabilities.

        Raises:
            NotFound: The server has no model of that name.
        """
        request = model_pb.GetModelRequest(model=name)
        reply = self._rpc.call(self._rpc.models.GetModel, request, timeout)
        return _replies.model_info(reply.model)

    def close(self) -> None:
        """End all calls and the connection."""
        self._rpc.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _generate(self, attempts: Attempts, timeout: float | None) -> Generation:
        return Generation(self._rpc.generate, attempts, timeout)

    def _decode(self, opening: logits_pb.DecodeOpen, timeout: float | None) -> Decoding[Array]:
        return Decoding(lambda moves: self._rpc.decode(moves, timeout), opening, ARRAYS)

    def _decode_top(
        self, opening: logits_pb.DecodeOpen, timeout: float | None
    ) -> Decoding[TopLogits]:
        return Decoding(lambda moves: self._rpc.decode(moves, timeout), opening, TOP_LOGITS)
