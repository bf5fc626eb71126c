"""Calls to a running front, and what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from front_fakes import Running
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc as pb_grpc
from headstream.v1 import types_pb2


def prompt(text: str = "hi") -> types_pb2.Input:
    return types_pb2.Input(text=text)


def generate(running: Running, timeout_s: float | None = None, **fields: Any) -> Any:
    stub: Any = pb_grpc.LogitsServiceStub(running.channel)
    return stub.Generate(pb.GenerateRequest(prompt=prompt(), **fields), timeout=timeout_s)


async def read_all(call: Any) -> list[Any]:
    replies: list[Any] = []
    while reply := await call.read():
        replies.append(reply)
    return replies


async def failure(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """Code, message and reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(call)
    return explain(caught.value)


def explain(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, str]:
    trailers = dict(error.trailing_metadata() or ())
    details = trailers["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.metadata["request_id"] == trailers["x-request-id"]
    return error.code(), error.details() or "", info.reason


def count(running: Running, name: str, **labels: str) -> float:
    value = running.front.metrics.registry.get_sample_value(f"headstream_{name}", labels)
    return value or 0.0


GENERATE = "headstream.v1.LogitsService/Generate"


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)
