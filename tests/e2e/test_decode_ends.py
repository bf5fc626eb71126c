"""How decoding sessions end, what that frees, and that they leave room for everybody else."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from headstream.client import Branch, Client, DeadlineExceeded, InvalidArgument, StreamBroken
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2
from server_process import Server, running_server

PROMPT = [2, *range(40, 90)]
METHOD = "headstream.v1.LogitsService/Decode"
BLOCKS = 32  # 1,024 tokens
KV_BYTES = BLOCKS * 2 * 3 * 32 * 2 * 16 * 4


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Generator[Server]:
    """A server with little memory, all of which sessions may hold."""
    flags = ["--kv-cache-bytes", str(KV_BYTES), "--max-all-session-tokens", "1000000"]
    flags += ["--stalled-stream", "1"]
    with running_server(tiny_model, "--dtype", "float32", *flags) as server:
        yield server


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def keep_on(branch: Branch[np.ndarray], pause: float) -> None:
    """Append until it fails."""
    for _ in range(1000):
        branch.append([1])
        time.sleep(pause)


def blocks(running: Server) -> float:
    return running.metrics()["kv_blocks_used", "tiny"]


@pytest.mark.parametrize(
    ("way", "codes"),
    [
        ("leave", ["OK"]),
        ("raise", ["OK"]),
        # Whether it ends or is cancelled first is a matter of threads.
        ("forget", ["OK", "CANCELLED"]),
        # A cancellation that is very late (`interceptor.CANCEL_SECONDS`) looks like an end.
        ("lose the connection", ["OK", "CANCELLED"]),
    ],
)
def test_every_way_to_leave_frees_everything_at_once(
    running: Server, way: str, codes: list[str]
) -> None:
    def count() -> float:
        metrics = running.metrics()
        return sum(metrics.get(("requests_total", code, METHOD), 0) for code in codes)

    ended = count()
    client = Client(running.address)
    d = client.decode(PROMPT)
    twin = d.fork()
    twin.append(PROMPT)
    until(lambda: blocks(running) > 0)
    if way == "leave":
        d.close()
    elif way == "raise":
        with pytest.raises(KeyError), d:
            raise KeyError
    elif way == "forget":
        del d, twin
    else:
        client.close()
    until(lambda: blocks(running) == 0)
    client.close()
    until(lambda: running.metrics()["requests_open", METHOD] == 0)
    until(lambda: count() == ended + 1)


def test_a_client_that_sends_no_more_is_answered_and_forgotten(running: Server) -> None:
    prompt = types_pb2.Input(token_ids=types_pb2.TokenIds(ids=PROMPT))
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(running.channel)
    moves = [pb.DecodeRequest(open=pb.DecodeOpen(prompt=prompt))]
    moves += [pb.DecodeRequest(append=pb.DecodeAppend(token_ids=PROMPT))]
    assert [answer.length for answer in stub.Decode(iter(moves))] == [51, 102]
    assert list(stub.Decode(iter([]))) == []
    until(lambda: blocks(running) == 0)


def test_who_does_not_read_is_ended(running: Server) -> None:
    """40 MB of rows are asked for, and none is read: the engine stops early, then all is freed."""
    prompt = types_pb2.Input(token_ids=types_pb2.TokenIds(ids=PROMPT))
    append = pb.DecodeRequest(append=pb.DecodeAppend(token_ids=[7] * 60))
    rollback = pb.DecodeRequest(rollback=pb.DecodeRollback(length=1))
    moves = [pb.DecodeRequest(open=pb.DecodeOpen(prompt=prompt)), *[append, rollback] * 400]
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(running.channel)
    before = running.metrics()["step_tokens_sum", "tiny"]
    call = stub.Decode(iter(moves))
    until(lambda: running.metrics()["requests_open", METHOD] == 1)
    until(lambda: running.metrics()["requests_open", METHOD] == 0)
    until(lambda: blocks(running) == 0)
    assert running.metrics()["step_tokens_sum", "tiny"] - before < 60 * 200
    with pytest.raises(grpc.RpcError, match="not read for 1 s"):
        list(call)


def test_a_session_cancelled_at_any_moment_leaves_nothing(running: Server) -> None:
    prompt = types_pb2.Input(token_ids=types_pb2.TokenIds(ids=PROMPT))
    moves = [pb.DecodeRequest(open=pb.DecodeOpen(prompt=prompt))]
    for branch in range(20):
        moves.append(pb.DecodeRequest(fork=pb.DecodeFork(branch=branch)))
        moves.append(pb.DecodeRequest(append=pb.DecodeAppend(branch=branch, token_ids=[7])))
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(running.channel)
    for i in range(150):
        call = stub.Decode(iter(moves))
        time.sleep(i * 2e-4)
        call.cancel()
    until(lambda: running.metrics()["requests_open", METHOD] == 0)
    until(lambda: blocks(running) == 0)


def test_no_thread_is_left_behind(running: Server) -> None:
    with Client(running.address) as client:
        client.decode(PROMPT).close()
        before = threading.active_count()
        for _ in range(5):
            with client.decode(PROMPT) as d, pytest.raises(InvalidArgument):
                d.rollback(0)
        until(lambda: threading.active_count() <= before)


def test_idle_sessions_leave_memory_to_others_and_lose_no_bit(running: Server) -> None:
    """Sessions fill the memory; requests run all the same, and then the sessions go on."""
    with Client(running.address) as client:
        prompts = [[2, *range(40 + i, 340 + i)] for i in range(5)]
        sessions = [client.decode(prompt) for prompt in prompts]
        for d in sessions:
            d.append([7] * 20)
        assert blocks(running) >= 22
        before = running.metrics()["preemptions_total", "tiny"]
        generations = [
            client.generate([3, *range(40, 340)], max_new_tokens=100, ignore_eos=True)
            for _ in range(3)
        ]
        assert all(len(list(generation)) == 100 for generation in generations)
        assert running.metrics()["preemptions_total", "tiny"] > before
        for d in sessions:
            row = d.append([8])[0]
            with client.decode(d.token_ids) as fresh:
                assert np.array_equal(row, fresh.logits)
        for d in sessions:
            d.close()
    until(lambda: blocks(running) == 0)


def test_a_session_that_is_not_used_is_ended(tiny_model: Path) -> None:
    flags = ["--session-idle", "1.5", "--session-deadline", "6"]
    with running_server(tiny_model, *flags) as running, Client(running.address) as client:
        d = client.decode(PROMPT)
        for i in range(3):
            time.sleep(0.6)
            d.append([i])  # still there after 1.8 s
        until(lambda: blocks(running) == 0)
        with pytest.raises(DeadlineExceeded, match=r"the session ends: no move for 1\.5 s"):
            d.append([1])
        d = client.decode(PROMPT)
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="the session ends: open for 6 s"):
            keep_on(d, 0.1)
        assert time.monotonic() - begin > 5
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(running.channel)
        waiting = threading.Event()
        call = stub.Decode(iter(waiting.wait, True))
        with pytest.raises(grpc.RpcError, match=r"no move for 1\.5 s"):
            next(call)
        waiting.set()
        until(lambda: blocks(running) == 0)


def test_a_session_does_not_hold_up_the_end_of_the_server(tiny_model: Path) -> None:
    with running_server(tiny_model) as running, Client(running.address) as client:
        d = client.decode(PROMPT)
        running.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert running.process.wait(60) == 0
        assert time.monotonic() - begin < 30, "the grace is 60 s"
        with pytest.raises(StreamBroken, match="draining") as caught:
            d.append([1])
        assert caught.value.code == "UNAVAILABLE"


def test_the_death_of_the_engine_ends_sessions(tiny_model: Path) -> None:
    with running_server(tiny_model) as running, Client(running.address) as client:
        d = client.decode(PROMPT)
        [engine] = running.engines()
        engine.kill()
        with pytest.raises(StreamBroken) as caught:
            keep_on(d, 0.02)
        assert caught.value.code == "UNAVAILABLE"
