"""The cases with grpc's asyncio client: ADDRESS TOKEN on the command line, a line of JSON each."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import interop_requests as make
from headstream.v1 import (
    embeddings_service_pb2_grpc,
    logits_service_pb2_grpc,
    tokenizer_service_pb2_grpc,
)


async def main(address: str, token: str) -> None:
    async with grpc.aio.insecure_channel(address, options=make.OPTIONS) as channel:
        for name, case in Cases(channel, token).all().items():
            print(json.dumps({"case": name, **await observed(case)}), flush=True)


async def observed(case: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    try:
        return {"code": "OK", "value": await case()}
    except grpc.aio.AioRpcError as error:
        return {"code": error.code().name, "value": make.field_of(error)}
    except asyncio.CancelledError:  # what a cancelled call raises here
        return {"code": "CANCELLED", "value": None}


class Cases:
    def __init__(self, channel: Any, token: str) -> None:  # some stubs are typed as blocking ones
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"), ("x-request-id", make.REQUEST_ID))
        self._embeddings: Any = embeddings_service_pb2_grpc.EmbeddingsServiceStub(channel)
        self._logits: Any = logits_service_pb2_grpc.LogitsServiceStub(channel)
        self._tokenizer: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)

    def all(self) -> dict[str, Callable[[], Awaitable[Any]]]:
        return {
            "unary": self.unary,
            "server_stream": self.server_stream,
            "bidi": self.bidi,
            "error_details": lambda: self._embed(make.embed(layer=99)),
            "deadline": self.deadline,
            "cancel": self.cancel,
            "large_reply": self.large_reply,
            "too_large": lambda: self._tokenize(make.TOO_LARGE),
            "metadata": self.metadata,
            "wrong_token": lambda: self._embed(make.embed(), (("authorization", "Bearer hs_x"),)),
            "gzip": self.gzip,
            "reflection": self.reflection,
            "health": self.health,
            "unknown_method": self._unknown,
        }

    def _embed(self, request: Any, metadata: Any = None, **options: Any) -> Any:
        metadata = metadata or self._metadata
        return self._embeddings.Embed(request, metadata=metadata, timeout=make.LONG, **options)

    def _generate(self, request: Any, timeout: float = make.LONG) -> Any:
        return self._logits.Generate(request, metadata=self._metadata, timeout=timeout)

    def _tokenize(self, text: str) -> Any:
        request = make.tokenize(text)
        return self._tokenizer.Tokenize(request, metadata=self._metadata, timeout=make.LONG)

    async def unary(self) -> str:
        return make.vector(await self._embed(make.embed()))

    async def gzip(self) -> str:
        return make.vector(await self._embed(make.embed(), compression=grpc.Compression.Gzip))

    async def server_stream(self) -> list[int]:
        events = self._generate(make.generate(make.SHORT))
        return [event.step.token_id async for event in events if event.HasField("step")]

    async def bidi(self) -> list[int]:
        replies = self._embeddings.EmbedStream(
            iter(make.stream()), metadata=self._metadata, timeout=make.LONG
        )
        return sorted([answer.id async for reply in replies for answer in reply.answers])

    async def deadline(self) -> int:
        return len([each async for each in self._generate(make.generate(make.ENDLESS), make.SOON)])

    async def cancel(self) -> int:
        call = self._generate(make.generate(make.ENDLESS))
        await anext(aiter(call))
        call.cancel()
        return len([each async for each in call])  # raises CancelledError

    async def large_reply(self) -> int:
        return len((await self._tokenize(make.LARGE)).tokens.ids)

    async def metadata(self) -> Any:
        call = self._embed(make.embed())
        await call
        return dict(await call.initial_metadata())["x-request-id"]

    async def reflection(self) -> bool:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(self._channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        replies = stub.ServerReflectionInfo(
            iter([request]), metadata=self._metadata, timeout=make.LONG
        )
        first = await anext(aiter(replies))
        return make.SERVICE in [each.name for each in first.list_services_response.service]

    async def health(self) -> str:
        stub: Any = health_pb2_grpc.HealthStub(self._channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=make.LONG)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    def _unknown(self) -> Any:
        call: Any = self._channel.unary_unary(f"/{make.UNKNOWN}")
        return call(b"", metadata=self._metadata, timeout=make.LONG)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
