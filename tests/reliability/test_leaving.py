"""Callers leave in four ways: the engine stops for them, directly and behind a load balancer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2
from outcome import Table
from proxy_process import running_proxy
from replicas import Replica, running_replicas
from server_process import save_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HELD = ("sequences_running", "queue_depth", "kv_blocks_used")
# Another process, which is killed while it reads.
READER = """
import sys
from headstream.client import Client
for step in Client(sys.argv[1]).generate("The chicken", max_new_tokens=1900, ignore_eos=True):
    print(step.index, flush=True)
"""


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Generator[list[Replica]]:
    with running_replicas(save_tiny_model(tmp_path_factory.mktemp("tiny-model")), 1) as replicas:
        yield replicas


def stream(channel: grpc.Channel, timeout: float = 60) -> Any:
    """A long one, two of whose messages are there."""
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(channel)
    request = pb.GenerateRequest(
        prompt=types_pb2.Input(text="The chicken"),
        stop=pb.StopConditions(max_new_tokens=1900, ignore_eos=True),
    )
    call = stub.Generate(request, timeout=timeout)
    next(call)
    next(call)
    return call


def cancel(address: str) -> Callable[[], object]:
    channel = grpc.insecure_channel(address)
    return stream(channel).cancel


def close(address: str) -> Callable[[], object]:
    channel = grpc.insecure_channel(address)
    call = stream(channel)

    def leave() -> None:
        channel.close()
        assert call.code() is grpc.StatusCode.CANCELLED

    return leave


def expire(address: str) -> Callable[[], object]:
    """The time begins when the deadline has passed."""
    call = stream(grpc.insecure_channel(address), timeout=1.0)
    end = time.monotonic() + 1.0

    def leave() -> None:
        time.sleep(max(0.0, end - time.monotonic()))
        assert not call.done() or call.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    return leave


def kill(address: str) -> Callable[[], object]:
    process = subprocess.Popen([sys.executable, "-c", READER, address], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()

    def leave() -> None:
        process.kill()
        process.communicate()

    return leave


WAYS = {"cancelled": cancel, "closed": close, "deadline": expire, "killed": kill}


def free_after(replica: Replica, seconds: float = 60) -> float:
    """Seconds until the engine's own report says that nothing is held."""
    begin = time.perf_counter()
    while True:
        values = replica.server.metrics()
        if not any(values.get((name, "tiny"), 0.0) for name in HELD):
            return time.perf_counter() - begin
        assert time.perf_counter() < begin + seconds, "something is held"
        time.sleep(0.002)


@pytest.mark.parametrize("proxy", [None, "envoy"])
@pytest.mark.parametrize("way", WAYS)
def test_the_engine_is_free_at_once(
    way: str, proxy: str | None, lone: list[Replica], tmp_path: Path, table: Table, *, long: bool
) -> None:
    count = 50 if long else 3
    taken: list[float] = []
    with ExitStack() as stack:
        address = lone[0].server.address
        if proxy is not None:
            address = stack.enter_context(running_proxy(proxy, lone, tmp_path))
        for _ in range(count):
            leave = WAYS[way](address)
            leave()
            taken.append(free_after(lone[0]))
    slowest = max(taken)
    late = sum(seconds > 0.1 for seconds in taken)
    name = f"{way}, {proxy or 'direct'}: free within {slowest * 1000:.0f} ms"
    table.add(name, count, count - late, late)
    assert slowest < (0.1 if long else 10), taken
