"""A model on two ranks behind a real server: the same answers, one fate, and nothing left over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2

from headstream.client import Client, Unimplemented
from server_process import Server, running_server

SERVING = health_pb2.HealthCheckResponse.SERVING
FLAGS = ("--tensor-parallel", "2", "--dtype", "float32")
TIMEOUT_S = 5.0
HASTY = (*FLAGS, "--rank-timeout", str(TIMEOUT_S))


def until(condition: Callable[[], bool], seconds: float = 60) -> float:
    """Seconds that it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - begin


def ranks(server: Server) -> list[psutil.Process]:
    return sorted(server.engines(), key=lambda process: process.cmdline()[-1])


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def answer(server: Server, prompt: str = "The chicken") -> tuple[list[int], np.ndarray]:
    """Greedy tokens, and the whole row of logits before each."""
    with Client(server.address) as client:
        run = client.generate(prompt, max_new_tokens=16, logits="full", ignore_eos=True)
        steps = list(run)
    return [step.token_id for step in steps], np.stack([np.asarray(step.logits) for step in steps])


@pytest.fixture(scope="module")
def pair(tiny_model: Path) -> Generator[Server]:
    """A server whose model two ranks share."""
    with running_server(tiny_model, *HASTY) as server:
        yield server


def test_the_real_model_gives_the_answers_of_one_process(gemma: Path, gemma_server: Server) -> None:
    """Gemma 3 270M, which has one key/value head: both ranks keep it. Each holds half the rest."""
    with running_server(gemma, *FLAGS, name=gemma.name) as shared:
        for prompt in ("So long and thanks for all the", "東京は日本の"):
            tokens, logits = answer(gemma_server, prompt)
            ours, rows = answer(shared, prompt)
            assert ours == tokens
            # Logits reach 44 and the stream 98,500: sums of another order differ by 2.4e-5.
            np.testing.assert_allclose(rows, logits, atol=5e-5, rtol=1e-5)
        [whole] = (engine.memory_info().rss for engine in gemma_server.engines())
        for part in ranks(shared):
            assert part.memory_info().rss < 0.8 * whole, "libraries and read pages are in it"


def test_sessions_fork_on_ranks(pair: Server, tiny_model: Path) -> None:
    """A fork copies a block of key/value memory, on every rank."""
    with running_server(tiny_model, "--dtype", "float32") as alone:
        rows: list[np.ndarray] = []
        for server in (alone, pair):
            with Client(server.address) as client, client.decode("The chicken") as session:
                fork = session.fork()
                session.append([5, 6])
                rows.append(np.stack([session.logits, *fork.append([7, 8])]))
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-5)


def test_the_inside_is_not_shown(pair: Server) -> None:
    with Client(pair.address) as client:
        with pytest.raises(Unimplemented):
            client.attention("The chicken", layers=[1])
        assert client.model().fingerprint.backend.endswith("-ranks2")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_hangs_is_seen_and_all_come_back(
    pair: Server, number: signal.Signals
) -> None:
    """The second; the engine's tests have the first, too."""
    until(lambda: pair.health() == SERVING)
    before = answer(pair)
    processes = ranks(pair)
    assert len(processes) == 2
    os.kill(processes[1].pid, number)
    seconds = until(lambda: pair.health() != SERVING)
    assert seconds < 5.0 + (TIMEOUT_S if number == signal.SIGSTOP else 0.0)
    until(lambda: all(map(is_gone, processes)))
    until(lambda: pair.health() == SERVING)
    after = answer(pair)
    assert after[0] == before[0]
    assert np.array_equal(after[1], before[1])


def test_a_drain_leaves_nothing(tiny_model: Path) -> None:
    with running_server(tiny_model, *FLAGS) as server:
        processes = ranks(server)
        call = server.generate(200)
        next(call)
        server.process.send_signal(signal.SIGTERM)
        assert list(call)[-1].HasField("end")
        assert server.process.wait(60) == 0
        assert len(processes) == 2
        until(lambda: all(map(is_gone, processes)))


def test_a_killed_server_leaves_nothing_though_a_rank_hangs(tiny_model: Path) -> None:
    with running_server(tiny_model, *FLAGS) as server:
        processes = ranks(server)
        os.kill(processes[1].pid, signal.SIGSTOP)
        server.process.kill()
        until(lambda: all(map(is_gone, processes)))
