"""Callers who leave: the engine stops working for them, and everything they held is free again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from server_process import Server, running_server, save_tiny_model

COUNT = 20
TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with running_server(save_tiny_model(tmp_path_factory.mktemp("tiny"))) as server:
        yield server


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def nothing_is_held(running: Server) -> bool:
    values = running.metrics()
    names = ("sequences_running", "queue_depth", "kv_blocks_used")
    return all(values.get((name, "tiny"), 0.0) == 0.0 for name in names)


def aborts(running: Server, reason: str) -> float:
    return running.metrics().get(("aborts_total", "tiny", reason), 0.0)


def test_cancelled_streams_free_everything_at_once(running: Server) -> None:
    calls = [running.generate(1900) for _ in range(COUNT)]
    for call in calls:
        next(call)
        next(call)
    assert running.metrics()["sequences_running", "tiny"] == COUNT
    for call in calls:
        call.cancel()
    until(lambda: nothing_is_held(running))
    assert aborts(running, "cancelled") == COUNT


def test_a_closed_channel_frees_everything(running: Server) -> None:
    before = aborts(running, "cancelled")
    with grpc.insecure_channel(running.address) as channel:
        calls = [replace(running, channel=channel).generate(1900) for _ in range(COUNT)]
        for call in calls:
            next(call)
            next(call)
    until(lambda: nothing_is_held(running))
    assert aborts(running, "cancelled") == before + COUNT


CLIENT = """
import sys, time
import grpc
from server_process import Server
with grpc.insecure_channel(sys.argv[1]) as channel:
    server = Server(None, sys.argv[1], channel, "")
    calls = [server.generate(1900) for _ in range(int(sys.argv[2]))]
    for call in calls:
        next(call)
    print("all begun", flush=True)
    time.sleep(600)
"""


def test_a_killed_client_frees_everything(running: Server) -> None:
    before = aborts(running, "cancelled")
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", CLIENT, running.address, str(COUNT)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "all begun\n"
        client.kill()
    until(lambda: nothing_is_held(running))
    assert aborts(running, "cancelled") == before + COUNT


def test_a_deadline_frees_everything(running: Server) -> None:
    call = running.generate(1900, timeout=0.5)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: nothing_is_held(running))
    assert aborts(running, "deadline_exceeded") == 1


def test_every_call_is_counted_once(running: Server) -> None:
    for _ in range(3):
        assert len(list(running.generate(5))) == 7
    values = running.metrics()
    method = "headstream.v1.LogitsService/Generate"
    by_code = {
        key[1]: value  # labels come in the order of their names
        for key, value in values.items()
        if key[0] == "requests_total" and key[2] == method
    }
    ended = sum(by_code.values())
    assert by_code["OK"] == 3
    assert values["request_seconds_count", method] == ended
    assert values["requests_open", method] == 0
