"""The real server as a process: signals, and the death of its engine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from server_process import running_server, save_tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_sigterm_lets_streams_end_and_stops_the_engine(checkpoint: Path) -> None:
    with running_server(checkpoint, "--drain-delay", "3") as server:
        [engine] = server.engines()
        call = server.generate(400)
        next(call)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.health() != health_pb2.HealthCheckResponse.SERVING)
        assert server.health() == health_pb2.HealthCheckResponse.NOT_SERVING
        assert len(list(server.generate(2))) == 4, "during the delay new calls are still served"
        assert list(call)[-1].HasField("end")
        assert server.process.wait(60) == 0
        assert not engine.is_running()


def test_a_stream_longer_than_the_grace_is_told_to_go_on_elsewhere(checkpoint: Path) -> None:
    with running_server(checkpoint, "--grace", "2.2") as server:
        call = server.generate(1900)
        next(call)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.ABORTED
        assert server.process.wait(60) == 0


def test_a_second_signal_ends_it_at_once(checkpoint: Path) -> None:
    with running_server(checkpoint, "--drain-delay", "30") as server:
        [engine] = server.engines()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.health() != health_pb2.HealthCheckResponse.SERVING)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 128 + signal.SIGTERM
        engine.wait(20)


def test_the_death_of_the_engine_shows(checkpoint: Path) -> None:
    with running_server(checkpoint, "--engine-restarts", "0") as server:
        assert server.health() == health_pb2.HealthCheckResponse.SERVING
        call = server.generate(1900)
        next(call)
        [engine] = server.engines()
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.ABORTED
        assert server.health() == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as refused:
            list(server.generate(1))
        error = refused.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
