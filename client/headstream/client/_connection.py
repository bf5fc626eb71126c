"""The connection of the sync client: a channel, its stubs, and errors made ours."""

from __future__ import annotations

import copy
import dataclasses
import threading
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from headstream.client import _channel, _status
from headstream.client._score_state import ScoreState
from headstream.client._token_embeddings import TokenEmbeddingsState
from headstream.v1 import embeddings_service_pb2_grpc as embeddings_grpc
from headstream.v1 import internals_service_pb2_grpc as internals_grpc
from headstream.v1 import logits_service_pb2_grpc as logits_grpc
from headstream.v1 import model_service_pb2_grpc as model_grpc
from headstream.v1 import tokenizer_service_pb2_grpc as tokenizer_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstream.client._item_stream import SyncCall
    from headstream.client._results import TextScores, TokenEmbeddings
    from headstream.client._stream_state import StreamState
    from headstream.v1 import embeddings_service_pb2 as embeddings_pb
    from headstream.v1 import logits_service_pb2 as logits_pb

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class Connection:
    """One channel and what is called over it."""

    def __init__(self, target: _channel.Target) -> None:
        options = _channel.channel_options()
        channel = (
            grpc.secure_channel(target.address, target.credentials, options)
            if target.credentials is not None
            else grpc.insecure_channel(target.address, options)
        )
        self._channel = channel
        stubs = _channel.traced(channel, target.address)
        self._target = target
        self._connected = threading.Event()  # of all that share the channel
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

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ReplyT],
        request: RequestT,
        timeout: float | None,
    ) -> ReplyT:
        """Call a method that has one answer.

        Raises:
            RpcError: It failed.
        """
        self._connect()
        seconds = self._target.timeout if timeout is None else timeout
        try:
            return method(request, timeout=seconds, metadata=self._target.metadata)
        except grpc.RpcError as error:
            raise _status.from_call(error) from error

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[RequestT, ReplyT],
        request: RequestT,
        timeout: float | None,
    ) -> SyncCall[ReplyT]:
        """Begin a call whose answer is a stream. Reading it raises gRPC's own errors.

        Raises:
            Unavailable: There is no healthy server.
        """
        self._connect()
        seconds = self._target.stream_timeout if timeout is None else timeout
        return method(request, timeout=seconds, metadata=self._target.metadata)

    def generate(
        self, request: logits_pb.GenerateRequest, timeout: float | None
    ) -> SyncCall[logits_pb.GenerateResponse]:
        """Begin a continuation. Reading it raises gRPC's own errors.

        Raises:
            Unavailable: There is no healthy server.
        """
        return self.stream(self.logits.Generate, request, timeout)

    def decode(
        self, moves: Iterator[logits_pb.DecodeRequest], timeout: float | None
    ) -> SyncCall[logits_pb.DecodeResponse]:
        """Begin a decoding session. Reading it raises gRPC's own errors.

        Raises:
            Unavailable: There is no healthy server.
        """
        self._connect()
        seconds = self._target.stream_timeout if timeout is None else timeout
        return self.logits.Decode(moves, timeout=seconds, metadata=self._target.metadata)

    def embed_stream(
        self, messages: Iterator[embeddings_pb.EmbedStreamRequest], timeout: float | None
    ) -> SyncCall[embeddings_pb.EmbedStreamResponse]:
        """Begin to embed any number of texts. Reading it raises gRPC's own errors.

        Raises:
            Unavailable: There is no healthy server.
        """
        self._connect()
        metadata = self._target.metadata
        return self.embeddings.EmbedStream(messages, timeout=timeout, metadata=metadata)

    def embed_tokens(
        self, request: embeddings_pb.EmbedTokensRequest, timeout: float | None
    ) -> TokenEmbeddings:
        """Read an EmbedTokens stream to its end.

        Raises:
            StreamBroken: It ended early.
            RpcError: It failed in another way.
        """
        state = TokenEmbeddingsState()
        self.read(self.embeddings.EmbedTokens, request, state, timeout)
        return state.result()

    def score(self, request: logits_pb.ScoreRequest, timeout: float | None) -> list[TextScores]:
        """Read a Score stream to its end; one result per text.

        Raises:
            StreamBroken: It ended early.
            RpcError: It failed in another way.
        """
        state = ScoreState()
        self.read(self.logits.Score, request, state, timeout)
        return state.results()

    def read(
        self,
        method: grpc.UnaryStreamMultiCallable[RequestT, ReplyT],
        request: RequestT,
        state: StreamState[ReplyT],
        timeout: float | None,
    ) -> None:
        """Read a stream to its end.

        Raises:
            StreamBroken: It ended early.
            RpcError: It failed in another way.
        """
        try:
            for event in self.stream(method, request, timeout):
                state.feed(event)
        except grpc.RpcError as error:
            raise _status.from_call(error, state.reached) from error

    def close(self) -> None:
        """End all calls and the channel."""
        self._channel.close()

    def _connect(self) -> None:
        """Before the first call: wait for a healthy server, so that none being there is told."""
        if self._connected.is_set():
            return
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(timeout=self._target.connect_timeout)
        except grpc.FutureTimeoutError:
            raise _status.unreachable(self._target) from None
        finally:
            ready.cancel()
        self._connected.set()
