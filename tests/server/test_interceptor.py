from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

import front_fakes
from front_calls import GENERATE, count, explain, failure, generate, read_all
from front_fakes import Running
from headstream.v1 import model_service_pb2, model_service_pb2_grpc

Code = grpc.StatusCode


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(checkpoint) as front:
        yield front


async def test_bytes_that_are_no_message(running: Running) -> None:
    for method, reply in (("ModelService/GetModel", "unary"), ("LogitsService/Generate", "stream")):
        make: Any = getattr(running.channel, f"unary_{reply}")
        call = make(f"/headstream.v1.{method}")(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (call if reply == "unary" else read_all(call))
        assert explain(caught.value)[::2] == (Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


@pytest.mark.parametrize(
    "method",
    [
        "InternalsService/Trace",
        "InternalsService/Attention",
        "InternalsService/LogitLens",
    ],
)
async def test_what_is_not_served(checkpoint: Path, method: str) -> None:
    async with front_fakes.running_front(checkpoint, "--no-internals") as running:
        call: Any = running.channel.unary_stream(f"/headstream.v1.{method}")
        code, message, reason = await failure(call(b""))
    assert (code, reason) == (Code.UNIMPLEMENTED, "NOT_SERVED")
    assert method in message


async def test_unknown_methods_are_one_series(running: Running) -> None:
    for name in ("A", "B"):
        call: Any = running.channel.unary_unary(f"/headstream.v1.LogitsService/{name}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
        assert caught.value.code() is Code.UNIMPLEMENTED
    assert count(running, "requests_total", method="unknown", code="UNIMPLEMENTED") == 2


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("my-id.1_2", True), ("a" * 64, True), ("a" * 65, False), ("a b", False), ("", False)],
)
async def test_request_id(running: Running, sent: str, kept: bool) -> None:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(running.channel)
    request = model_service_pb2.GetModelRequest()
    call = stub.GetModel(request, metadata=(("x-request-id", sent),))
    found = dict(await call.initial_metadata())["x-request-id"]
    assert (found == sent) is kept
    assert found
    bad = stub.GetModel(
        model_service_pb2.GetModelRequest(model="x"), metadata=(("x-request-id", sent),)
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bad
    assert "x-request-id" not in dict(caught.value.initial_metadata() or ())  # may be retried
    assert (dict(caught.value.trailing_metadata() or ())["x-request-id"] == sent) is kept


async def test_draining_refuses_new_calls_before_any_work(running: Running) -> None:
    running.front.policy.draining = True
    assert (await failure(generate(running)))[::2] == (Code.UNAVAILABLE, "DRAINING")
    assert running.handle.jobs == []


async def test_every_call_is_counted_once(running: Running) -> None:
    await read_all(generate(running))
    await failure(generate(running, model="nobody"))
    assert count(running, "requests_total", method=GENERATE, code="OK") == 1
    assert count(running, "requests_total", method=GENERATE, code="NOT_FOUND") == 1
    assert count(running, "request_seconds_count", method=GENERATE) == 2
    assert count(running, "requests_open", method=GENERATE) == 0
    assert running.front.policy.open_calls == set()
