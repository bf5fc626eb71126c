"""Calls of one connection, spread over the replicas by the call."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from outcome import Table
from proxy_process import running_proxy
from replica_load import SHORT, Calls
from replicas import EMBED, GENERATE, Replica, shares

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LEAST, MOST = 0.38, 0.62  # of two replicas


def served(replicas: list[Replica], method: str) -> list[float]:
    return [replica.served(method) for replica in replicas]


@pytest.mark.parametrize("proxy", ["envoy", "haproxy", "nginx"])
async def test_one_connection_reaches_both_replicas(
    proxy: str, replicas: list[Replica], tmp_path: Path, table: Table
) -> None:
    with running_proxy(proxy, replicas, tmp_path) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            calls = Calls(channel)
            before = served(replicas, EMBED)
            for _ in range(400):
                await calls.embed()
            unary = shares(before, served(replicas, EMBED))
            before = served(replicas, GENERATE)
            for _ in range(20):
                await asyncio.gather(*(calls.generate(SHORT) for _ in range(4)))
            streams = shares(before, served(replicas, GENERATE))
    table.add(
        f"balance, {proxy}: {unary[0]:.0%} of calls, {streams[0]:.0%} of streams at one of two",
        0,
        480,
        0,
    )
    assert LEAST <= unary[0] <= MOST
    assert LEAST <= streams[0] <= MOST


@pytest.mark.parametrize("proxy", ["envoy", "haproxy"])
async def test_a_late_replica_gets_its_share(
    proxy: str, replicas: list[Replica], tmp_path: Path, table: Table
) -> None:
    replicas[1].kill()
    with running_proxy(proxy, replicas, tmp_path) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            calls = Calls(channel)
            for _ in range(20):
                await calls.embed()
            await asyncio.to_thread(replicas[1].start)
            asked = asyncio.create_task(replicas[1].wait_until_asked())
            while not asked.done():
                await calls.embed()
            await asked
            before = served(replicas, EMBED)
            for _ in range(400):
                await calls.embed()
            late = shares(before, served(replicas, EMBED))[1]
    table.add(f"late replica, {proxy}: {late:.0%} of calls at it", 1, 400, 0)
    assert LEAST <= late <= MOST


@pytest.mark.parametrize("proxy", ["envoy", "haproxy"])
async def test_a_prefix_stays_with_its_replica(
    proxy: str, replicas: list[Replica], tmp_path: Path
) -> None:
    with running_proxy(proxy, replicas, tmp_path) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            homes: list[int] = []
            for prefix in range(24):
                calls = Calls(channel, (("headstream-prefix", f"prompt {prefix}"),))
                before = served(replicas, EMBED)
                for _ in range(3):
                    await calls.embed()
                part = shares(before, served(replicas, EMBED))
                assert sorted(part) == [0.0, 1.0], "one prefix, two replicas"
                homes.append(part.index(1.0))
    assert 4 <= sum(homes) <= 20, "all prefixes at one replica"


@pytest.mark.parametrize("proxy", ["envoy", "haproxy", "nginx"])
async def test_the_health_of_one_replica_is_not_told_as_that_of_all(
    proxy: str, replicas: list[Replica], tmp_path: Path
) -> None:
    """gRPC clients that watch health would leave the proxy when the replica that they watch drains.

    They take UNIMPLEMENTED for a server without health, and leave the choice to the proxy.
    """
    with running_proxy(proxy, replicas, tmp_path) as address:
        # nginx ends the stream behind its 404, and gRPC may see the end of it first: UNKNOWN.
        told = {"UNIMPLEMENTED"} if proxy != "nginx" else {"UNIMPLEMENTED", "UNKNOWN"}
        assert await watched(address) in told
    direct = await watched(replicas[0].server.address)
    assert direct == health_pb2.HealthCheckResponse.SERVING, "negative control"


async def watched(address: str) -> int | str:
    """The first word of Health/Watch, or the status."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
        try:
            return int((await anext(aiter(call))).status)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        finally:
            call.cancel()
