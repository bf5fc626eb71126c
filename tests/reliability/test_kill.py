"""kill -9: the client repeats calls with one answer, and takes streams up where they broke."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from outcome import Table
from proxy_process import running_proxy
from replica_clients import Clients
from replica_load import Answers
from replicas import Replica

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


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
