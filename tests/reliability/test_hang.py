"""An engine that hangs: calls end by their deadlines, liveness says so, and it may come back."""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from outcome import Table
from server_process import Server, running_server, save_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DEADLINE = 3.0
CALLS = 5
ALIVE_SECONDS = 35


@contextmanager
def stopped(process_id: int) -> Generator[None]:
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


def tokens(server: Server) -> list[int]:
    return [each.step.token_id for each in server.generate(5) if each.HasField("step")]


def alive(server: Server) -> bool:
    try:
        with urllib.request.urlopen(f"http://{server.admin}/livez", timeout=10) as reply:
            return bool(reply.status == 200)
    except urllib.error.HTTPError:
        return False


def until_dead(server: Server) -> float:
    """Seconds until liveness fails."""
    began = time.monotonic()
    while alive(server):
        assert time.monotonic() - began < ALIVE_SECONDS + 10
        time.sleep(0.2)
    return time.monotonic() - began


def test_calls_end_by_their_deadline(tmp_path: Path, table: Table, long: bool) -> None:
    with running_server(save_tiny_model(tmp_path), "--dtype", "float32") as server:
        expected = tokens(server)
        [engine] = server.engines()
        took = 0.0
        with stopped(engine.pid):
            began = time.monotonic()
            calls = [server.generate(1000, timeout=DEADLINE) for _ in range(CALLS)]
            for call in calls:
                with pytest.raises(grpc.RpcError) as caught:
                    list(call)
                error: Any = caught.value
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            longest = time.monotonic() - began
            assert alive(server), "too early: a step may take long"
            if long:
                took = until_dead(server)
                assert took < ALIVE_SECONDS
        assert tokens(server) == expected, "it goes on where it stood"
        assert alive(server)
    seen = f", liveness failed after {took + longest:.0f} s" if long else ""
    table.add(f"engine stopped: calls ended after {longest:.1f} s{seen}", 1, CALLS, 0)
    assert longest < DEADLINE + 1
