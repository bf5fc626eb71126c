"""Callers that do not read: bounded memory, others go on, and an end at the limit."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest

import tiny_tokenizers
from headstream.v1 import logits_service_pb2, logits_service_pb2_grpc, types_pb2
from outcome import Table
from replica_load import TEXT
from server_process import Server, running_server
from tiny_models import save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STALLED, LIVE = 50, 10
VOCABULARY = 8192  # a row is 32 KiB: a stream of 1,900 has 60 MiB
SPARE_BYTES = 64_000_000
MIB = 1 << 20


def _stream(channel: grpc.aio.Channel, tokens: int, mode: Any) -> Any:
    pb = logits_service_pb2
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(channel)
    request = pb.GenerateRequest(
        prompt=types_pb2.Input(text=TEXT),
        stop=pb.StopConditions(max_new_tokens=tokens, ignore_eos=True),
        logits=pb.LogitsOptions(mode=mode, top_k=4),
    )
    return stub.Generate(request, timeout=600)


@dataclass
class Live:
    """Streams that are read, and the time between their messages."""

    channel: grpc.aio.Channel
    gaps: list[float] = field(default_factory=list[float])
    ended: int = 0

    async def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._read(end) for _ in range(LIVE)))

    async def _read(self, end: float) -> None:
        while time.monotonic() < end:
            before = 0.0
            last: Any = None
            async for event in _stream(self.channel, 100, logits_service_pb2.LOGITS_MODE_TOP_K):
                last = event
                now = time.monotonic()
                if before:
                    self.gaps.append(now - before)
                before = now
            assert last.HasField("end")
            self.ended += 1

    @property
    def p99(self) -> float:
        return float(np.quantile(self.gaps, 0.99))


async def _read_rows(channel: grpc.aio.Channel) -> None:
    async for _ in _stream(channel, 40, logits_service_pb2.LOGITS_MODE_FULL):
        pass


def _resident(server: Server) -> int:
    """Of the front and its engine: what waits may wait in either."""
    front = psutil.Process(server.process.pid)
    return sum(process.memory_info().rss for process in (front, *server.engines()))


async def test_stalled_streams_cost_nobody_anything(
    tmp_path: Path, table: Table, long: bool
) -> None:
    limit = 30.0 if long else 8.0
    save_tiny("gemma3", tmp_path, vocab_size=VOCABULARY)
    tiny_tokenizers.byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    flags = ("--dtype", "float32", "--stalled-stream", str(limit))
    with running_server(tmp_path, *flags) as server:
        async with (
            grpc.aio.insecure_channel(server.address) as read,
            grpc.aio.insecure_channel(
                server.address, options=[("grpc.use_local_subchannel_pool", 1)]
            ) as unread,
        ):
            alone = Live(read)
            await alone.run(limit / 2)
            await asyncio.gather(*(_read_rows(read) for _ in range(LIVE)))  # what is made once
            before = _resident(server)
            calls = [
                _stream(unread, 1900, logits_service_pb2.LOGITS_MODE_FULL) for _ in range(STALLED)
            ]
            for call in calls:
                await call.read()
            await _until_paused(server)
            beside = Live(read)
            peak, took = await _until_ended(server, beside, limit)
            codes = [await _code(call) for call in calls]
    grown = peak - before
    ratio = beside.p99 / alone.p99
    table.add(
        f"{STALLED} stalled streams, ended after {took:.0f} s: {grown / MIB:+.0f} MiB, "
        f"p99 of {LIVE} others {ratio:.2f} of before",
        STALLED,
        beside.ended,
        0,
    )
    assert set(codes) <= {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}, codes
    assert beside.ended > 0
    assert grown < SPARE_BYTES
    if long:
        assert ratio < 1.5


async def _until_paused(server: Server) -> None:
    """Until the engine draws nothing more for them."""
    drawn = -1.0
    while (now := server.metrics()["output_tokens_total", "tiny"]) != drawn:
        drawn = now
        await asyncio.sleep(0.5)


async def _until_ended(server: Server, beside: Live, limit: float) -> tuple[int, float]:
    """Until the server has left them all: the most memory meanwhile, and the seconds."""
    began = time.monotonic()
    peak = 0
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(beside.run(limit))
        while (values := await asyncio.to_thread(server.metrics)).get(
            ("aborts_total", "tiny", "slow_consumer"), 0.0
        ) < STALLED:
            peak = max(peak, _resident(server))
            assert time.monotonic() < began + 4 * limit + 30, values
            await asyncio.sleep(0.25)
        took = time.monotonic() - began
        await reading
    assert took > limit * 0.8, "they were not given their time"
    return peak, took


async def _code(call: Any) -> grpc.StatusCode:
    """How the stream ends for who reads it after all."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    code: grpc.StatusCode = await call.code()
    return code
