# ruff: noqa: ASYNC109 - `timeout` is the deadline of the call, which the server is told too
"""The connection of the async client: a channel, its stubs, and errors made ours."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import grpc.aio

from headstream.client import _channel, _status
from headstream.client._async_exchange import AsyncExchange
from headstream.client._score_state import ScoreState
from headstream.client._token_embeddings import TokenEmbeddingsState
from headstream.v1 import embeddings_service_pb2_grpc as embeddings_grpc
from headstream.v1 import internals_service_pb2_grpc as internals_grpc
from headstream.v1 import logits_service_pb2_grpc as logits_grpc
from headstream.v1 import model_service_pb2_grpc as model_grpc
from headstream.v1 import tokenizer_service_pb2_grpc as tokenizer_grpc

if TYPE_CHECKING:
    from headstream.client._results import TextScores, TokenEmbeddings
    from headstream.client._stream_state import StreamState
    from headstream.v1 import embeddings_service_pb2 as embeddings_pb
    from headstream.v1 import logits_service_pb2 as logits_pb

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class AsyncConnection:
    """One channel and what is called over it."""

    def __init__(self, target: _channel.Target) -> None:
        options = _channel.channel_options()
        channel = (
            grpc.aio.secure_channel(target.address, target.credentials, options)
            if target.credentials is not None
            else grpc.aio.insecure_channel(target.address, options)
        )
        self._channel = channel
        stubs = _channel.traced(channel, target.address)
        self._target = target
        self._connected = asyncio.Event()  # of all that share the channel
        self.logits = logits_grpc.LogitsServiceStub(stubs)
        self.embeddings = embeddings_grpc.EmbeddingsServiceStub(stubs)
        self.tokenizer = tokenizer_grpc.TokenizerServiceStub(stubs)
        self.internals = internals_grpc.InternalsServiceStub(stubs)
        self.models = model_grpc.ModelServiceStub(stubs)

    def with_metadata(self, key: str, value: str) -> Self:
        """The same channel, with one more pair sent with every call."""
        other = copy.copy(self)
        metadata = (*self._target.metadata, (key, value))
        other._target = dataclasses.replace(self._target, metadata=metadata)  # noqa: SLF001 - one of us
        return other

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ReplyT],
        request: RequestT,
        timeout: float | None,
    ) -> ReplyT:
        """Call a method that has one answer.

        Raises:
            RpcError: It failed.
        """
        await self.connect()
        seconds = self._target.timeout if timeout is None else timeout
        try:
            return await method(request, timeout=seconds, metadata=self._target.metadata)
        except grpc.aio.AioRpcError as error:
            raise _status.from_call(error) from error

    def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[RequestT, ReplyT],
        request: RequestT,
        timeout: float | None,
    ) -> grpc.aio.UnaryStreamCall[RequestT, ReplyT]:
        """Begin a call whose answer is a stream. Reading it raises gRPC's own errors."""
        seconds = self._target.stream_timeout if timeout is None else timeout
        return method(request, timeout=seconds, metadata=self._target.metadata)

    def generate(
        self, request: logits_pb.GenerateRequest, timeout: float | None
    ) -> grpc.aio.UnaryStreamCall[logits_pb.GenerateRequest, logits_pb.GenerateResponse]:
        """Begin a continuation. Reading it raises gRPC's own errors."""
        return self.stream(self.logits.Generate, request, timeout)

    async def decode(
        self, timeout: float | None
    ) -> AsyncExchange[logits_pb.DecodeRequest, logits_pb.DecodeResponse]:
        """Begin a decoding session. Reading it raises gRPC's own errors.

        Raises:
            Unavailable: There is no healthy server.
        """
        await self.connect()
        seconds = self._target.stream_timeout if timeout is None else timeout
        return AsyncExchange(self.logits.Decode(timeout=seconds, metadata=self._target.metadata))

    async def embed_stream(
        self, timeout: float | None
    ) -> AsyncExchange[embeddings_pb.EmbedStreamRequest, embeddings_pb.EmbedStreamResponse]:
        """Begin to embed any number of texts. Reading it raises gRPC's own errors.

        Raises:
            Unavailable: There is no healthy server.
        """
        await self.connect()
        call = self.embeddings.EmbedStream(timeout=timeout, metadata=self._target.metadata)
        return AsyncExchange(call)

    async def embed_tokens(
        self, request: embeddings_pb.EmbedTokensRequest, timeout: float | None
    ) -> TokenEmbeddings:
        """Read an EmbedTokens stream to its end.

        Raises:
            StreamBroken: It ended early.
            RpcError: It failed in another way.
        """
        state = TokenEmbeddingsState()
        await self.read(self.embeddings.EmbedTokens, request, state, timeout)
        return state.result()

    async def score(
        self, request: logits_pb.ScoreRequest, timeout: float | None
    ) -> list[TextScores]:
        """Read a Score stream to its end; one result per text.

        Raises:
            StreamBroken: It ended early.
            RpcError: It failed in another way.
        """
        state = ScoreState()
        await self.read(self.logits.Score, request, state, timeout)
        return state.results()

    async def read(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[RequestT, ReplyT],
        request: RequestT,
        state: StreamState[ReplyT],
        timeout: float | None,
    ) -> None:
        """Read a stream to its end.

        Raises:
            StreamBroken: It ended early.
            RpcError: It failed in another way.
        """
        await self.connect()
        try:
            async for event in self.stream(method, request, timeout):
                state.feed(event)
        except grpc.aio.AioRpcError as error:
            raise _status.from_call(error, state.reached) from error

    async def close(self) -> None:
        """End all calls and the channel."""
        await self._channel.close()

    async def connect(self) -> None:
        """Before the first reply: wait for a healthy server, so that none being there is told.

        Raises:
            Unavailable: There is none.
        """
        if self._connected.is_set():
            return
        try:
            async with asyncio.timeout(self._target.connect_timeout):
                await self._channel.channel_ready()
        except TimeoutError:
            raise _status.unreachable(self._target) from None
        self._connected.set()
