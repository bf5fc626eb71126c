"""Rolling restarts under load: nothing is lost, unless the drain is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from outcome import Table
from proxy_process import running_proxy
from replica_load import Answers, Load
from replicas import Replica

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


async def restarted(replicas: list[Replica], stop: Callable[[Replica], None], count: int) -> None:
    """One after the other, each when the one before is asked again."""
    for number in range(count):
        replica = replicas[number % len(replicas)]
        await asyncio.sleep(2)  # streams are under way on both
        await asyncio.to_thread(stop, replica)
        await asyncio.to_thread(replica.start)
        await replica.wait_until_asked()


@pytest.mark.parametrize("proxy", ["envoy", "haproxy"])
async def test_a_rolling_restart_loses_nothing(
    proxy: str, replicas: list[Replica], tmp_path: Path, table: Table, long: bool
) -> None:
    restarts, calls = (10, 20_000) if long else (2, 500)
    answers = await Answers.of(replicas[0].server.address)
    with running_proxy(proxy, replicas, tmp_path) as address:
        async with Load(address, answers) as load:
            await restarted(replicas, Replica.drain, restarts)
            await load.until(calls)
    table.add(f"rolling restart, {proxy}", restarts, load.total - load.failed, load.failed)
    assert load.failed == 0, load.failures


@pytest.mark.parametrize("proxy", ["envoy", "haproxy"])
async def test_without_the_drain_calls_are_lost(
    proxy: str, replicas: list[Replica], tmp_path: Path, table: Table
) -> None:
    """Negative control."""
    answers = await Answers.of(replicas[0].server.address)
    with running_proxy(proxy, replicas, tmp_path) as address:
        async with Load(address, answers) as load:
            await restarted(replicas, Replica.kill, 1)
    table.add(f"control: restart without drain, {proxy}", 1, load.total - load.failed, load.failed)
    assert load.failed > 0
