"""Texts to embed, sent at a fixed rate whatever comes back; and as fast as answers come."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np

from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import embeddings_service_pb2_grpc, types_pb2

OPTIONS = [("grpc.enable_retries", 0)]


@dataclass
class Outcome:
    """What became of the requests of one phase."""

    seconds: float
    sent: int = 0
    good: int = 0  # answered within the deadline
    codes: Counter[str] = field(default_factory=Counter[str])
    refused: list[float] = field(default_factory=list[float])  # seconds until the refusal

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds

    def refusal_ms(self, percent: float) -> float:
        """A percentile of the times that refusals took."""
        return float(np.percentile(self.refused, percent)) * 1000 if self.refused else 0.0

    def line(self) -> str:
        """For people."""
        return (
            f"{self.rate:.1f} good/s of {self.sent / self.seconds:.1f}/s; {dict(self.codes)}; "
            f"refused within p50 {self.refusal_ms(50):.1f}, p99 {self.refusal_ms(99):.1f} ms"
        )


class OpenLoad:
    """One channel to a server, whose texts all cost the same."""

    def __init__(self, address: str, deadline: float, num_tokens: int = 500) -> None:
        """``num_tokens``: of each text, about."""
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._stub: Any = embeddings_service_pb2_grpc.EmbeddingsServiceStub(self._channel)
        self._deadline = deadline
        ids = types_pb2.TokenIds(ids=[5 + i % 200 for i in range(num_tokens)])
        item = pb.EmbedInput(input=types_pb2.Input(token_ids=ids))
        self._request = pb.EmbedRequest(inputs=[item])

    async def closed(self, seconds: float, workers: int) -> Outcome:
        """The next request of a worker follows the answer to its last: what the server can do."""
        outcome = Outcome(seconds)
        end = time.perf_counter() + seconds

        async def work() -> None:
            while time.perf_counter() < end:
                await self._ask(outcome, 60.0, good_until=end)

        await asyncio.gather(*(work() for _ in range(workers)))
        return outcome

    async def open(self, seconds: float, rate: float, *, tell_deadline: bool = True) -> Outcome:
        """So many requests a second, evenly. The server need not be told of the deadline."""
        outcome = Outcome(seconds)
        begin = time.perf_counter()
        tasks: list[asyncio.Task[None]] = []
        while (due := begin + outcome.sent / rate) < begin + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            good_until = time.perf_counter() + self._deadline
            told = self._deadline if tell_deadline else 60.0
            tasks.append(asyncio.create_task(self._ask(outcome, told, good_until)))
            await asyncio.sleep(0)
        if not tell_deadline:  # nobody waits for the rest
            await asyncio.sleep(self._deadline)
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return outcome

    async def _ask(self, outcome: Outcome, deadline: float, good_until: float) -> None:
        outcome.sent += 1
        begin = time.perf_counter()
        try:
            await self._stub.Embed(self._request, timeout=deadline)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            outcome.codes[code.name] += 1
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                outcome.refused.append(time.perf_counter() - begin)
        else:
            good = time.perf_counter() <= good_until
            outcome.codes["OK" if good else "late"] += 1
            outcome.good += good

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()
