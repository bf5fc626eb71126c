"""The gRPC port while calls come that no client makes, and when the server behind it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import front_fakes
from broken_frames import UNIMPLEMENTED, call_that_is_no_text, say
from front_calls import count, generate, until
from front_fakes import Job, Running
from front_values import make_event
from headstream.access import call_server
from headstream.server import front as front_module
from headstream.server import listening
from headstream.server.engine.stream import TokenEvent
from headstream.server.errors import ConfigError
from headstream.server.listener import bind
from headstream.v1 import model_service_pb2 as pb
from headstream.v1 import model_service_pb2_grpc as pb_grpc

GET_MODEL = "headstream.v1.ModelService/GetModel"


def token(index: int) -> Any:
    return make_event(token=TokenEvent(index, 40 + index, None, None, ()))


async def say_no_text(running: Running, until: bytes | None = None) -> bytes:
    return await asyncio.to_thread(say, running.ports.address, call_that_is_no_text(), until)


async def ask(running: Running) -> str:
    """Over a connection of its own."""
    async with grpc.aio.insecure_channel(running.ports.address) as channel:
        stub: Any = pb_grpc.ModelServiceStub(channel)
        reply = await stub.GetModel(pb.GetModelRequest(), wait_for_ready=True, timeout=20)
        name: str = reply.model.name
        return name


async def open_call(running: Running) -> tuple[Any, Job]:
    """A stream that goes on for as long as the test wants."""
    running.handle.script = lambda job: job.stream.put(token(0))
    call = generate(running)
    while not (await call.read()).HasField("step"):
        pass
    return call, running.handle.jobs[-1]


async def goes_on(call: Any, job: Job, index: int) -> bool:
    job.stream.put(token(index))
    reply = await asyncio.wait_for(call.read(), 20)
    return bool(reply.HasField("step"))


@pytest.fixture
def _as_grpc_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is no text ends its loop."""
    monkeypatch.delattr(call_server._Core, "_request_call")


async def test_a_path_that_is_no_text_is_a_method_that_there_is_not(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint) as running:
        call, job = await open_call(running)
        for number in range(1, 4):
            assert UNIMPLEMENTED in await say_no_text(running, UNIMPLEMENTED)
            assert await goes_on(call, job, number)
            assert await ask(running) == "tiny"
            unknown = count(running, "requests_total", method="unknown", code="UNIMPLEMENTED")
            assert unknown == number
        job.stream.put(make_event(finish="length"))


@pytest.mark.usefixtures("_as_grpc_has_it")
async def test_a_server_that_ends_is_replaced_while_its_calls_go_on(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint) as running:
        call, job = await open_call(running)
        for number in range(1, 4):
            await say_no_text(running)
            await until(lambda: len(running.front._listening._ended) == 1)  # negative control
            assert await goes_on(call, job, number)
            assert await ask(running) == "tiny"
            assert running.front.alive
            job.stream.put(make_event(finish="length"))
            while await call.read():
                pass
            assert await call.code() is grpc.StatusCode.OK
            await until(lambda: not running.front._listening._ended)
            call, job = await open_call(running)
        await say_no_text(running)
        await running.front.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call.read(), 20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.usefixtures("_as_grpc_has_it")
async def test_who_drains_waits_for_the_calls_of_a_server_that_has_ended(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, "--grace", "20") as running:
        call, job = await open_call(running)
        await say_no_text(running)
        assert await ask(running) == "tiny"
        draining = asyncio.create_task(running.front.drain())
        await until(lambda: running.front.policy.draining)
        assert await goes_on(call, job, 1)
        assert not draining.done()
        job.stream.put(make_event(finish="length"))
        await asyncio.wait_for(draining, 15)


@pytest.mark.usefixtures("_as_grpc_has_it")
async def test_it_is_not_alive_while_it_does_not_listen(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "LONGEST_PAUSE", 0.05)
    async with front_fakes.running_front(checkpoint) as running:
        make, taken = running.front._listening._make, True

        async def make_if_free(port: int) -> Any:
            if taken:
                raise ConfigError("it is taken")
            return await make(port)

        monkeypatch.setattr(running.front._listening, "_make", make_if_free)
        call, job = await open_call(running)
        await say_no_text(running)
        await until(lambda: not running.front.alive)
        assert await goes_on(call, job, 1)
        taken = False
        await until(lambda: running.front.alive)
        assert await ask(running) == "tiny"
        job.stream.put(make_event(finish="length"))


@pytest.mark.usefixtures("_as_grpc_has_it")
async def test_the_explorer_calls_the_server_that_has_come_after(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the port was not free at first; a try that fails leaves nothing open."""
    monkeypatch.setattr(listening, "LONGEST_PAUSE", 0.05)
    async with front_fakes.running_front(checkpoint, "--explorer") as running:
        front: Any = running.front
        bridge = front._explorer._bridge

        async def asked() -> bytes:
            return b"".join([line async for line in bridge.call(GET_MODEL, b"{}")])

        def sockets() -> int:
            return len(list(Path(bridge._directory.name).iterdir()))

        assert b"tiny" in await asked()
        binds = 0

        def bind_later(*arguments: Any) -> int:
            nonlocal binds
            binds += 1
            if binds < 4:
                raise ConfigError("it is taken")
            return bind(*arguments)

        monkeypatch.setattr(front_module, "bind", bind_later)
        await say_no_text(running)
        await until(lambda: running.front.alive and binds == 4)
        assert b"tiny" in await asked()
        await until(lambda: sockets() == 1)
