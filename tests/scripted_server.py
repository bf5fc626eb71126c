"""A real gRPC server on 127.0.0.1 whose services answer what a test says."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from headstream.v1 import embeddings_service_pb2_grpc as embeddings_grpc
from headstream.v1 import internals_service_pb2_grpc as internals_grpc
from headstream.v1 import logits_service_pb2_grpc as logits_grpc
from headstream.v1 import model_service_pb2_grpc as model_grpc
from headstream.v1 import tokenizer_service_pb2_grpc as tokenizer_grpc

Handler = Callable[[Any, grpc.ServicerContext], Any]


def _unset(request: Any, context: grpc.ServicerContext) -> Any:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "the test does not serve this")


@dataclass
class Script:
    """What the services do, and what they saw."""

    address: str = ""
    port: int = 0
    generate: Handler = _unset
    score: Handler = _unset
    decode: Handler = _unset
    embed: Handler = _unset
    embed_tokens: Handler = _unset
    embed_stream: Handler = _unset
    lookup: Handler = _unset
    tokenize: Handler = _unset
    detokenize: Handler = _unset
    list_models: Handler = _unset
    get_model: Handler = _unset
    trace: Handler = _unset
    attention: Handler = _unset
    logit_lens: Handler = _unset
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)  # the last call is over
    was_cancelled: bool = False  # it ended before its handler had

    def run(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return getattr(self, name)(request, context)

    def run_stream(self, name: str, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        done = False

        def on_end() -> None:
            self.was_cancelled = not done
            self.ended.set()

        context.add_callback(on_end)
        yield from self.run(name, request, context)
        done = context.is_active()  # the messages of a call that was cancelled end, too


class _Logits(logits_grpc.LogitsServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        return self.script.run_stream("generate", request, context)

    def Score(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        return self.script.run_stream("score", request, context)

    def Decode(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        return self.script.run_stream("decode", request_iterator, context)


class _Embeddings(embeddings_grpc.EmbeddingsServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def Embed(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.script.run("embed", request, context)

    def EmbedTokens(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        return self.script.run_stream("embed_tokens", request, context)

    def EmbedStream(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        return self.script.run_stream("embed_stream", request_iterator, context)

    def LookupEmbeddings(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.script.run("lookup", request, context)


class _Internals(internals_grpc.InternalsServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def Trace(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        return self.script.run_stream("trace", request, context)

    def Attention(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        return self.script.run_stream("attention", request, context)

    def LogitLens(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        return self.script.run_stream("logit_lens", request, context)


class _Tokenizer(tokenizer_grpc.TokenizerServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def Tokenize(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.script.run("tokenize", request, context)

    def Detokenize(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.script.run("detokenize", request, context)


class _Models(model_grpc.ModelServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.script.run("list_models", request, context)

    def GetModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.script.run("get_model", request, context)


@contextlib.contextmanager
def scripted_server(
    script: Script, credentials: grpc.ServerCredentials | None = None
) -> Generator[grpc.Server]:
    with ThreadPoolExecutor(max_workers=4) as pool:
        server = grpc.server(pool)
        logits_grpc.add_LogitsServiceServicer_to_server(_Logits(script), server)
        embeddings_grpc.add_EmbeddingsServiceServicer_to_server(_Embeddings(script), server)
        internals_grpc.add_InternalsServiceServicer_to_server(_Internals(script), server)
        tokenizer_grpc.add_TokenizerServiceServicer_to_server(_Tokenizer(script), server)
        model_grpc.add_ModelServiceServicer_to_server(_Models(script), server)
        script.port = (
            server.add_insecure_port("127.0.0.1:0")
            if credentials is None
            else server.add_secure_port("127.0.0.1:0", credentials)
        )
        script.address = f"127.0.0.1:{script.port}"
        yield server
        server.stop(0).wait()


@contextlib.contextmanager
def running_script() -> Generator[Script]:
    """The script of a running server; its functions may be set at any time."""
    script = Script()
    with scripted_server(script) as server:
        server.start()
        yield script
