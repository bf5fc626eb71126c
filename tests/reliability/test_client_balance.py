"""The Python client without a load balancer: two addresses, used in turn while they are healthy."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from headstream.client import AsyncClient, Client
from outcome import Table
from replica_load import OPTIONS, TEXT, Calls
from replicas import EMBED, Replica, shares

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SERVING = health_pb2.HealthCheckResponse.SERVING
Embed = Callable[[], Awaitable[Any]]


def addresses(replicas: list[Replica]) -> str:
    """As a DNS name with two addresses gives them."""
    return "ipv4:" + ",".join(replica.server.address for replica in replicas)


async def part_of_first(replicas: list[Replica], embed: Embed) -> float:
    before = [replica.served(EMBED) for replica in replicas]
    for _ in range(40):
        await embed()
    return shares(before, [replica.served(EMBED) for replica in replicas])[0]


async def loses_and_finds(replicas: list[Replica], embed: Embed) -> int:
    """The first replica's engine dies and is started again: the calls made meanwhile."""
    assert 0.4 <= await part_of_first(replicas, embed) <= 0.6
    for engine in replicas[0].server.engines():
        engine.kill()
    await asyncio.to_thread(wait_until_unwell, replicas[0])
    calls = 0
    while replicas[0].server.health() != SERVING:  # its engine comes back after a second or more
        await embed()
        calls += 1
    await asyncio.to_thread(comes_back, replicas, asyncio.get_running_loop(), embed)
    assert 0.4 <= await part_of_first(replicas, embed) <= 0.6
    return calls


def wait_until_unwell(replica: Replica) -> None:
    while replica.server.health() == SERVING:
        time.sleep(0.01)


def comes_back(replicas: list[Replica], loop: asyncio.AbstractEventLoop, embed: Embed) -> None:
    end = time.monotonic() + 60
    before = replicas[0].served(EMBED)
    while replicas[0].served(EMBED) == before:
        assert time.monotonic() < end, "it is not asked again"
        asyncio.run_coroutine_threadsafe(embed_once(embed), loop).result()


async def embed_once(embed: Embed) -> None:
    await embed()


async def test_the_sync_client_leaves_out_who_does_not_serve(
    replicas: list[Replica], table: Table
) -> None:
    with Client(addresses(replicas)) as client:
        calls = await loses_and_finds(replicas, lambda: asyncio.to_thread(client.embed, TEXT))
    table.add("engine killed, round robin of the client", 1, calls, 0)
    assert calls > 0


async def test_the_async_client_leaves_out_who_does_not_serve(
    replicas: list[Replica], table: Table
) -> None:
    async with AsyncClient(addresses(replicas)) as client:
        calls = await loses_and_finds(replicas, lambda: client.embed(TEXT))
    table.add("engine killed, round robin of the asyncio client", 1, calls, 0)
    assert calls > 0


async def test_without_the_health_it_would_be_asked(replicas: list[Replica]) -> None:
    """Negative control: round robin alone."""
    config = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
    options = [*OPTIONS, ("grpc.service_config", config)]
    async with grpc.aio.insecure_channel(addresses(replicas), options=options) as channel:
        calls = Calls(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await loses_and_finds(replicas, calls.embed)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
