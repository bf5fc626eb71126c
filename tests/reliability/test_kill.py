"""kill -9: the client repeats calls with one answer, and takes streams up where they broke."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from headstream.client import AsyncClient, RpcError, StreamBroken
from outcome import Table
from proxy_process import running_proxy
from replica_load import LONG, PENALTY, TEXT, Answers
from replicas import Replica

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


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


async def killed(replicas: list[Replica], clients: Clients, kills: int) -> None:
    """One after the other, each when the one before is asked again."""
    for number in range(kills):
        replica = replicas[number % len(replicas)]
        await asyncio.sleep(2)
        await asyncio.to_thread(replica.kill)
        await asyncio.to_thread(replica.start)
        await replica.wait_until_asked()
    clients.ending = True


@pytest.mark.parametrize("proxy", ["envoy", "haproxy"])
async def test_a_killed_replica_is_not_noticed(
    proxy: str, replicas: list[Replica], tmp_path: Path, table: Table, long: bool
) -> None:
    kills = 10 if long else 2
    answers = await Answers.of(replicas[0].server.address)
    assert len(set(answers.tokens)) > 20, "tokens that all are one tell nothing of their order"
    with running_proxy(proxy, replicas, tmp_path) as address:
        clients = Clients(address, answers, resume=3)
        await asyncio.gather(clients.run(4, 6), killed(replicas, clients, kills))
    what = f"{clients.embedded:,} Embed, {clients.streamed:,} streams ({clients.broken} resumed)"
    lost = clients.failures.total()
    table.add(f"kill -9, {proxy}: {what}", kills, clients.embedded + clients.streamed, lost)
    assert lost == 0, clients.failures
    assert clients.broken > 0, "no stream was under way when a replica died"


async def test_streams_break_without_the_resumption(
    replicas: list[Replica], tmp_path: Path, table: Table
) -> None:
    """Negative control."""
    answers = await Answers.of(replicas[0].server.address)
    with running_proxy("envoy", replicas, tmp_path) as address:
        clients = Clients(address, answers, resume=0)
        await asyncio.gather(clients.run(1, 6), killed(replicas, clients, 1))
    table.add("control: kill -9, envoy, no resumption", 1, clients.streamed, clients.broken)
    assert clients.broken > 0
