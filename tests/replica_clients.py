"""The Python client behind a load balancer: it repeats calls and takes streams up by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from headstream.client import AsyncClient, RpcError, StreamBroken
from replica_load import LONG, PENALTY, TEXT, Answers


@dataclass
class Clients:
    """Workers with the Python client, which retries and resumes by itself."""

    address: str
    answers: Answers
    resume: int
    embedded: int = 0
    streamed: int = 0
    broken: int = 0  # and, with `resume`, taken up
    failures: Counter[str] = field(default_factory=Counter[str])
    ending: bool = False

    async def run(self, unary: int, streams: int) -> None:
        async with asyncio.TaskGroup() as group:
            for worker in [self._embed] * unary + [self._stream] * streams:
                group.create_task(self._work(worker))

    async def _work(self, ask: Any) -> None:
        async with AsyncClient(self.address) as client:
            while not self.ending:
                try:
                    await ask(client)
                except StreamBroken:
                    self.broken += 1
                except RpcError as error:
                    self.failures[str(error)] += 1
                    await asyncio.sleep(0.1)

    async def _embed(self, client: AsyncClient) -> None:
        vector = await client.embed(TEXT)
        self.embedded += 1
        self.failures["another vector"] += vector.tobytes() != self.answers.vector

    async def _stream(self, client: AsyncClient) -> None:
        generation = client.generate(
            TEXT,
            max_new_tokens=LONG,
            frequency_penalty=PENALTY,
            ignore_eos=True,
            resume=self.resume,
        )
        first = await anext(generation)
        server_side = generation.request_id
        tokens = [first.token_id, *[step.token_id async for step in generation]]
        self.streamed += 1
        self.broken += generation.request_id != server_side
        self.failures["other tokens"] += tokens != self.answers.tokens
