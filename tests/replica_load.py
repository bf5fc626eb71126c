"""Calls without a pause and without any retry of the client's, whose every answer is checked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import (
    embeddings_service_pb2_grpc,
    logits_service_pb2_grpc,
    types_pb2,
)
from headstream.v1 import logits_service_pb2 as logits_pb

TEXT = "The chicken didn't cross"
SHORT, LONG = 20, 400  # tokens of a stream
PENALTY = 2.0  # without it the greedy choice of a random model is one token again and again
TIMEOUT = 60.0
OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel
]


@dataclass
class Calls:
    """The calls of one channel."""

    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...] = ()
    timeout: float = TIMEOUT

    async def embed(self) -> bytes:
        """The vector's bytes."""
        stub: Any = embeddings_service_pb2_grpc.EmbeddingsServiceStub(self.channel)
        item = embeddings_pb.EmbedInput(input=types_pb2.Input(text=TEXT))
        request = embeddings_pb.EmbedRequest(inputs=[item])
        reply = await stub.Embed(request, timeout=self.timeout, metadata=self.metadata)
        [result] = reply.results
        data: bytes = result.embedding.vectors.data
        return data

    async def generate(self, num_tokens: int) -> list[int]:
        """The tokens, greedily drawn; none if the end is missing."""
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(self.channel)
        request = logits_pb.GenerateRequest(
            prompt=types_pb2.Input(text=TEXT),
            sampling=logits_pb.SamplingParams(frequency_penalty=PENALTY),
            stop=logits_pb.StopConditions(max_new_tokens=num_tokens, ignore_eos=True),
        )
        events = [
            event
            async for event in stub.Generate(request, timeout=self.timeout, metadata=self.metadata)
        ]
        if not events[-1].HasField("end"):
            return []
        return [event.step.token_id for event in events if event.HasField("step")]


@dataclass
class Answers:
    """What every replica must answer, whoever is asked."""

    vector: bytes
    tokens: list[int]

    @classmethod
    async def of(cls, address: str) -> Answers:
        async with grpc.aio.insecure_channel(address) as channel:
            calls = Calls(channel)
            return cls(await calls.embed(), await calls.generate(LONG))


@dataclass
class Load:
    """Workers that call until the end of the block, each over a connection of its own."""

    address: str
    answers: Answers
    unary: int = 4
    short_streams: int = 3
    long_streams: int = 2
    total: int = 0
    failures: Counter[str] = field(default_factory=Counter[str])

    @property
    def failed(self) -> int:
        return self.failures.total()

    async def __aenter__(self) -> Self:
        self._ending = False
        self._target: int | None = None
        self._reached = asyncio.Event()
        kinds = [self._embed] * self.unary
        kinds += [self._generate_short] * self.short_streams
        kinds += [self._generate_long] * self.long_streams
        self._workers = [asyncio.create_task(self._work(kind)) for kind in kinds]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending = True  # calls under way come to their end and are counted
        await asyncio.gather(*self._workers)

    async def until(self, total: int) -> None:
        """So many calls have been made."""
        self._target = total
        self._check()
        await self._reached.wait()

    def _check(self) -> None:
        if self._target is not None and self.total >= self._target:
            self._reached.set()

    async def _work(self, ask: Callable[[Calls], Awaitable[bool]]) -> None:
        async with grpc.aio.insecure_channel(self.address, options=OPTIONS) as channel:
            while not self._ending:
                try:
                    right = await ask(Calls(channel))
                except grpc.aio.AioRpcError as error:
                    self.failures[f"{error.code().name}: {error.details()}"] += 1
                    await asyncio.sleep(0.05)
                else:
                    self.failures["wrong answer"] += not right
                self.total += 1
                self._check()

    async def _embed(self, calls: Calls) -> bool:
        return await calls.embed() == self.answers.vector

    async def _generate_short(self, calls: Calls) -> bool:
        return await calls.generate(SHORT) == self.answers.tokens[:SHORT]

    async def _generate_long(self, calls: Calls) -> bool:
        return await calls.generate(LONG) == self.answers.tokens
