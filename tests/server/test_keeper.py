"""Engines that end and are started again, with a handle whose end is up to the test."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import front_fakes
from front_calls import until
from front_fakes import Running
from headstream.server import keeper
from headstream.server.engine.state import EngineState
from headstream.server.errors import EngineStartError


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "FIRST_PAUSE", 0.01)


def fail_to_start(running: Running, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on its engine does not start; the tries, counted."""
    tries: list[int] = []

    async def start(on_progress: object = None) -> None:
        assert running.front.alive, "it is not given up before"
        tries.append(len(tries) + 1)
        running.handle.set_state(EngineState.FAILED)
        raise EngineStartError("no memory")

    monkeypatch.setattr(running.handle, "start", start)
    return tries


async def test_an_engine_that_ends_is_started_again(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint) as running:
        for _ in range(3):
            running.handle.set_state(EngineState.FAILED)
            assert not running.front.health.serving
            await until(lambda: running.front.health.serving)
        assert running.front.alive


async def test_it_is_given_up_after_so_many_tries(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with front_fakes.running_front(checkpoint, "--engine-restarts", "3") as running:
        tries = fail_to_start(running, monkeypatch)
        running.handle.set_state(EngineState.FAILED)
        await until(lambda: not running.front.alive)
        assert tries == [1, 2, 3]


async def test_serving_long_enough_counts_anew(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "STEADY_SECONDS", 0.0)
    async with front_fakes.running_front(checkpoint, "--engine-restarts", "1") as running:
        for _ in range(3):
            running.handle.set_state(EngineState.FAILED)
            await until(lambda: running.front.health.serving)
        assert running.front.alive


async def test_time_that_passes_without_serving_counts_nothing_anew(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had served for long when it ended; the tries behind that are all in a row."""
    monkeypatch.setattr(keeper, "STEADY_SECONDS", 0.0)
    async with front_fakes.running_front(checkpoint, "--engine-restarts", "3") as running:
        tries = fail_to_start(running, monkeypatch)
        running.handle.set_state(EngineState.FAILED)
        await until(lambda: not running.front.alive)
        assert tries == [1, 2, 3]


async def test_who_drains_starts_nothing(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, "--drain-delay", "0.01") as running:
        await running.front.drain()
        running.handle.set_state(EngineState.FAILED)
        await asyncio.sleep(0.1)
        assert running.handle.state is EngineState.FAILED
