"""Networks that fail: every call ends by its deadline, and calls over other connections go on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest

from fault_proxy import FaultProxy
from headstream.v1 import logits_service_pb2, logits_service_pb2_grpc, types_pb2
from outcome import Table
from replica_load import OPTIONS, SHORT, TEXT, Answers, Calls, Load
from server_process import Server, running_server, save_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DEADLINE = 4.0
TOKENS = 100  # of a stream that is under way when the fault comes
KEEPALIVE, ANSWER = 1.0, 1.0
PINGS = [
    ("grpc.keepalive_time_ms", int(KEEPALIVE * 1000)),
    ("grpc.keepalive_timeout_ms", int(ANSWER * 1000)),
    ("grpc.http2.ping_timeout_ms", int(ANSWER * 1000)),  # also of pings that measure the line
    ("grpc.http2.max_pings_without_data", 0),  # otherwise two, and then one a minute
]
SERVER_KEEPALIVE, SERVER_ANSWER = 60.0, 20.0
BROKEN = {"UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED", "DEADLINE_EXCEEDED"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    checkpoint = save_tiny_model(tmp_path_factory.mktemp("tiny"))
    with running_server(checkpoint, "--dtype", "float32", "--keepalive-min-ping", "0.5") as server:
        yield server


@dataclass
class Trials:
    """Calls through the proxy, and how they ended."""

    answers: Answers
    ends: Counter[str] = field(default_factory=Counter[str])
    longest: float = 0.0

    async def ask(self, proxy: FaultProxy) -> None:
        """A vector and two streams over a connection of their own."""
        async with grpc.aio.insecure_channel(proxy.address, options=OPTIONS) as channel:
            calls = Calls(channel, timeout=DEADLINE)
            await asyncio.gather(
                self._judge(calls.embed(), self.answers.vector),
                self._judge(calls.generate(SHORT), self.answers.tokens[:SHORT]),
                self._judge(calls.generate(TOKENS), self.answers.tokens[:TOKENS]),
            )

    async def ask_in_peace(self, proxy: FaultProxy) -> None:
        """There is no fault."""
        async with grpc.aio.insecure_channel(proxy.address, options=OPTIONS) as channel:
            calls = Calls(channel)
            assert await calls.embed() == self.answers.vector
            assert await calls.generate(TOKENS) == self.answers.tokens[:TOKENS]

    async def _judge(self, call: Any, answer: Any) -> None:
        began = time.monotonic()
        try:
            right = await call == answer
        except grpc.aio.AioRpcError as error:
            self.ends[error.code().name] += 1
        else:
            self.ends["OK" if right else "wrong"] += 1
        self.longest = max(self.longest, time.monotonic() - began)


@asynccontextmanager
async def proxied(server: Server) -> AsyncGenerator[tuple[FaultProxy, Trials]]:
    """Beside calls that go to the server directly, none of which may fail."""
    answers = await Answers.of(server.address)
    async with (
        Load(server.address, answers, unary=1, short_streams=1, long_streams=1) as load,
        FaultProxy(server.address) as proxy,
    ):
        trials = Trials(answers)
        yield proxy, trials
    assert load.failed == 0, load.failures
    assert load.total > 0


def _reset(proxy: FaultProxy) -> None:
    proxy.reset()


def _half_close(proxy: FaultProxy) -> None:
    proxy.half_close()


def _swallow(proxy: FaultProxy) -> None:
    proxy.swallows = True


def _starve(proxy: FaultProxy) -> None:
    proxy.rate = 1024.0


def _delay(proxy: FaultProxy) -> None:
    proxy.delay = 0.05


FAULTS: dict[str, Callable[[FaultProxy], None]] = {
    "RST": _reset,
    "half close": _half_close,
    "blackhole": _swallow,
    "1 KB/s": _starve,
    "50 ms late": _delay,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_call_ends_by_its_deadline(
    fault: str, server: Server, table: Table, long: bool
) -> None:
    count = 20 if long else 1
    async with proxied(server) as (proxy, trials):
        await trials.ask_in_peace(proxy)
        for number in range(count):
            asking = asyncio.create_task(trials.ask(proxy))
            await proxy.connected.wait()
            await asyncio.sleep(0.02 + 0.2 * number / count)  # early and late in the streams
            FAULTS[fault](proxy)
            await asking
            proxy.swallows, proxy.rate, proxy.delay = False, None, 0.0
        await trials.ask_in_peace(proxy)
    found = trials.ends
    ends = ", ".join(f"{number} {code}" for code, number in found.most_common())
    table.add(f"network: {fault} ({ends}; longest {trials.longest:.1f} s)", count, found["OK"], 0)
    assert trials.longest < DEADLINE + 1
    assert found.keys() <= BROKEN | {"OK"}, found
    if fault in {"RST", "half close", "blackhole"}:
        assert found.keys() & BROKEN, "the fault was not felt"
    else:
        assert found["OK"] > 0


async def test_a_client_finds_a_blackhole_by_its_pings(server: Server, table: Table) -> None:
    async with proxied(server) as (proxy, trials):
        options = [*OPTIONS, *PINGS]
        async with grpc.aio.insecure_channel(proxy.address, options=options) as channel:
            call = await _open_session(channel)
            proxy.swallows = True
            began = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            found = time.monotonic() - began
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        proxy.swallows = False
        await trials.ask_in_peace(proxy)
    table.add(f"network: blackhole, found after {found:.1f} s", 1, 2, 0)
    assert found < KEEPALIVE + ANSWER + 1


async def test_the_server_finds_a_blackhole_by_its_pings(
    server: Server, table: Table, long: bool
) -> None:
    if not long:
        pytest.skip("81 seconds")
    method = "headstream.v1.LogitsService/Decode"
    async with (
        FaultProxy(server.address) as proxy,
        grpc.aio.insecure_channel(proxy.address, options=OPTIONS) as channel,
    ):
        await _open_session(channel)
        assert server.metrics()["requests_open", method] == 1
        proxy.swallows = True
        began = time.monotonic()
        while server.metrics()["requests_open", method]:
            await asyncio.sleep(0.5)
            assert time.monotonic() - began < SERVER_KEEPALIVE + SERVER_ANSWER + 1
        found = time.monotonic() - began
    table.add(f"network: blackhole, found by the server after {found:.1f} s", 1, 0, 0)


async def _open_session(channel: grpc.aio.Channel) -> Any:
    """A session that says nothing more by itself."""
    pb = logits_service_pb2
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(channel)
    call = stub.Decode(timeout=300)
    await call.write(pb.DecodeRequest(open=pb.DecodeOpen(prompt=types_pb2.Input(text=TEXT))))
    assert (await call.read()).HasField("prompt")
    return call
