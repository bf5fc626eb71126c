from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import front_fakes
from front_calls import until
from front_fakes import Running
from headstream.server.engine.state import EngineState
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ["", *(f"headstream.v1.{n}Service" for n in ("Logits", "Embeddings", "Model"))]


async def check(running: Running, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(running.channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    status: int = reply.status
    return status


async def get(running: Running, path: str, method: str = "GET") -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ports.admin)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split(b" ")[1]), body


async def test_every_name_reports_the_engine(checkpoint: Path) -> None:
    flags = ("--engine-restarts", "0")
    async with front_fakes.running_front(checkpoint, *flags, load=False) as running:
        assert [await check(running, name) for name in SERVICES] == [NOT_SERVING] * 4
        assert (await get(running, "/readyz"))[0] == 503
        assert (await get(running, "/livez"))[0] == 200
        await running.front.load(lambda _: None)
        assert [await check(running, name) for name in SERVICES] == [SERVING] * 4
        assert (await get(running, "/readyz"))[0] == 200
        running.handle.set_state(EngineState.FAILED)
        await until(lambda: not running.front.alive)
        assert [await check(running, name) for name in SERVICES] == [NOT_SERVING] * 4
        assert (await get(running, "/readyz"))[0] == 503
        assert (await get(running, "/livez"))[0] == 503


async def test_watchers_are_told_and_have_no_deadline(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, "--stream-deadline", "0.1") as running:
        stub: Any = health_pb2_grpc.HealthStub(running.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        await asyncio.sleep(0.2)
        running.handle.set_state(EngineState.FAILED)
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


async def test_an_unknown_service_is_not_found(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(running, "nobody")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        labels = {"method": "grpc.health.v1.Health/Check", "code": "NOT_FOUND"}
        value = partial(
            running.front.metrics.registry.get_sample_value, "headstream_requests_total", labels
        )
        await until(lambda: value() == 1)  # counted once the caller has been told


async def test_drain_leaves_the_balancer_first_and_lets_calls_end(checkpoint: Path) -> None:
    flags = ("--drain-delay", "2", "--grace", "2.3")
    async with front_fakes.running_front(checkpoint, *flags) as running:
        running.handle.script = lambda job: None
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(running.channel)
        call = stub.Generate(pb.GenerateRequest(prompt=types_pb2.Input(text="hi")))
        await call.read()
        started = time.monotonic()
        draining = asyncio.create_task(running.front.drain())
        await until(lambda: running.front.health.draining)
        assert await check(running) == NOT_SERVING
        assert (await get(running, "/readyz"))[0] == 503
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        assert time.monotonic() - started > 2.0, "it was not cut before the delay was over"
        await draining


async def test_watchers_do_not_hold_the_drain_up(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, "--grace", "20") as running:
        stub: Any = health_pb2_grpc.HealthStub(running.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        await asyncio.wait_for(running.front.drain(), 15)
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE


async def test_reflection_tells_the_contract(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint) as running:
        make: Any = reflection_pb2_grpc.ServerReflectionStub
        stub = make(running.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for reply in stub.ServerReflectionInfo(iter([request])):
            names = {service.name for service in reply.list_services_response.service}
            assert "headstream.v1.LogitsService" in names


async def test_admin_port(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint) as running:
        status, body = await get(running, "/metrics")
        assert status == 200
        assert b'headstream_engine_up{model="tiny"} 1.0' in body
        assert b'headstream_limit{limit="max_top_k",model="tiny"}' in body
        assert await get(running, "/metrics", "HEAD") == (200, b"")
        assert (await get(running, "/nothing"))[0] == 404
        assert (await get(running, "/metrics", "POST"))[0] == 405
        reader, writer = await asyncio.open_connection("127.0.0.1", running.ports.admin)
        writer.write(b"x" * 40_000)
        assert await reader.read() == b""
        writer.close()
