"""Streams for minutes, half of them left in the middle: nothing grows and everything comes back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from growth import Growth, Held
from headstream.v1 import logits_service_pb2, logits_service_pb2_grpc, types_pb2
from outcome import Table
from replica_load import OPTIONS, TEXT, TIMEOUT, Answers, Calls
from server_process import Server, running_server, save_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

WORKERS = 8
TOKENS = 60
POOLED = 4  # threads that pools of gRPC and asyncio start when they need them, and keep
SLOPE = {True: 1.0, False: 12.0}  # MiB a minute; in a short run one page of the heap is much


@dataclass
class Soak:
    """Workers whose every second stream is left, each over a connection of its own."""

    address: str
    answers: Answers
    end: float
    counts: Counter[str] = field(default_factory=Counter[str])

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(random.Random(number)))

    async def _work(self, rng: random.Random) -> None:
        while time.monotonic() < self.end:
            async with grpc.aio.insecure_channel(self.address, options=OPTIONS) as channel:
                for _ in range(50):
                    await rng.choice([self._stream, self._session, self._vector])(channel, rng)
                    if time.monotonic() > self.end:
                        return

    async def _stream(self, channel: grpc.aio.Channel, rng: random.Random) -> None:
        left = rng.random() < 0.5
        if not left:
            right = await Calls(channel).generate(TOKENS) == self.answers.tokens[:TOKENS]
            self.counts["whole" if right else "wrong"] += 1
            return
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(channel)
        request = logits_service_pb2.GenerateRequest(prompt=types_pb2.Input(text=TEXT))
        request.stop.max_new_tokens = TOKENS
        call = stub.Generate(request, timeout=TIMEOUT)
        for _ in range(rng.randrange(1, TOKENS // 2)):
            await call.read()
        call.cancel()
        self.counts["left"] += 1

    async def _session(self, channel: grpc.aio.Channel, rng: random.Random) -> None:
        pb = logits_service_pb2
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(channel)
        call = stub.Decode(timeout=TIMEOUT)
        await call.write(pb.DecodeRequest(open=pb.DecodeOpen(prompt=types_pb2.Input(text=TEXT))))
        await call.read()
        if rng.random() < 0.5:
            call.cancel()
            self.counts["left"] += 1
            return
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
        self.counts["whole"] += 1

    async def _vector(self, channel: grpc.aio.Channel, _: random.Random) -> None:
        right = await Calls(channel).embed() == self.answers.vector
        self.counts["whole" if right else "wrong"] += 1


async def test_nothing_grows(tmp_path: Path, table: Table, long: bool) -> None:
    seconds = 600 if long else 25
    flags = ("--dtype", "float32", "--kv-cache-bytes", str(64 << 20))
    with running_server(save_tiny_model(tmp_path), *flags, stderr=tmp_path / "log") as server:
        answers = await Answers.of(server.address)
        await Soak(server.address, answers, time.monotonic() + 2).run()  # what is made only once
        before = await _at_rest(server)
        growth = Growth()
        watching = asyncio.create_task(growth.watch(server))
        soak = Soak(server.address, answers, time.monotonic() + seconds)
        await soak.run()
        watching.cancel()
        after = await _at_rest(server)
    slope = growth.slope()
    total = soak.counts.total()
    table.add(
        f"soak of {seconds} s, {soak.counts['left']:,} calls left: {slope:+.2f} MiB a minute, "
        f"{after.fds - before.fds:+} files, {after.threads - before.threads:+} threads",
        soak.counts["left"],
        total,
        soak.counts["wrong"],
    )
    assert soak.counts["wrong"] == 0
    assert soak.counts["left"] > total / 5
    assert replace(after, threads=before.threads) == before
    assert after.threads <= before.threads + POOLED
    assert slope <= SLOPE[long]


async def _at_rest(server: Server) -> Held:
    """What is held once nothing is asked and the connections have gone."""
    held = Held.by(server)
    for _ in range(40):
        await asyncio.sleep(0.5)
        again = Held.by(server)
        if again == held and not again.calls and not again.blocks:
            return again
        held = again
    return held


def test_a_leak_is_seen() -> None:
    """Negative control: noise alone has no slope, noise and a leak have the leak's."""
    rng = random.Random(3)
    noise = Growth([float(t) for t in range(600)], [300 + rng.random() for _ in range(600)])
    assert abs(noise.slope()) < 0.1
    assert noise.leaking(1.5).slope() == pytest.approx(1.5, abs=0.1)
