"""Engines that end and are started again, with a handle whose end is up to the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import front_fakes
from front_calls import count, until
from front_fakes import Running
from headstream.server import keeper
from headstream.server.engine.state import EngineState
from headstream.server.errors import EngineStartError
from headstream.server.tokenizer import TextTokenizer


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
            await until(lambda: running.front._keepers[0]._serving_since is not None)
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


async def test_one_that_ends_while_another_is_still_loaded_is_started_again(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--models", "slow=fake")
    async with front_fakes.running_front(checkpoint, *flags, load=False) as running:
        slow, may_load = running.front.models.find("slow"), asyncio.Event()
        start = slow.start

        async def start_slowly(*arguments: Any) -> None:
            await may_load.wait()
            await start(*arguments)

        monkeypatch.setattr(slow, "start", start_slowly)
        loading = asyncio.create_task(running.front.load(lambda _: None))
        await until(lambda: running.handle.state is EngineState.SERVING)
        await asyncio.sleep(0.05)
        running.handle.set_state(EngineState.FAILED)
        await until(lambda: running.handle.state is EngineState.SERVING)
        assert not loading.done()
        may_load.set()
        await loading
        assert running.front.health.serving
        assert count(running, "engine_restarts_total", model="tiny") == 1


async def test_one_that_ends_before_its_tokenizer_is_read_is_started_again(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, may_read = TextTokenizer.from_directory, threading.Event()

    def read_slowly(directory: Path) -> TextTokenizer:
        assert may_read.wait(60)
        return read(directory)

    monkeypatch.setattr(TextTokenizer, "from_directory", read_slowly)
    async with front_fakes.running_front(checkpoint, load=False) as running:
        loading = asyncio.create_task(running.front.load(lambda _: None))
        await until(lambda: running.handle.state is EngineState.SERVING)
        running.handle.set_state(EngineState.FAILED)
        may_read.set()
        await loading
        await until(lambda: running.front.health.serving)


async def test_whatever_goes_wrong_is_one_more_try(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine starts, and then a file beside its weights cannot be read."""
    async with front_fakes.running_front(checkpoint) as running:
        read, faults = TextTokenizer.from_directory, [OSError("gone"), EngineStartError("not yet")]

        def read_sometimes(directory: Path) -> TextTokenizer:
            if faults:
                raise faults.pop(0)
            return read(directory)

        before = running.front.models.find("").loaded
        monkeypatch.setattr(TextTokenizer, "from_directory", read_sometimes)
        running.handle.set_state(EngineState.FAILED)
        await until(lambda: running.front.models.find("").loaded is not before)
        assert running.front.health.serving
        assert count(running, "engine_restarts_total", model="tiny") == 3
        assert running.front.alive


def fail_beside_it(
    running: Running, monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]
) -> None:
    """Once its engine starts, but not what lies beside it; in the pause behind that, ``then``."""
    model = running.front.models.find("")
    start, faults = model.start, [OSError("gone")]

    async def start_but_fail(*arguments: Any) -> None:
        await start(*arguments)
        if faults:
            asyncio.get_running_loop().call_soon(then)
            raise faults.pop()

    monkeypatch.setattr(model, "start", start_but_fail)


async def test_one_that_ends_before_it_is_tried_again_is_started_once(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with front_fakes.running_front(checkpoint) as running:
        fail_beside_it(running, monkeypatch, lambda: running.handle.set_state(EngineState.FAILED))
        running.handle.set_state(EngineState.FAILED)
        await until(lambda: running.front.health.serving)
        await asyncio.sleep(20 * keeper.FIRST_PAUSE)
        assert count(running, "engine_restarts_total", model="tiny") == 2


async def test_an_engine_without_what_lies_beside_it_does_not_serve(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the time until it ends counts nothing anew."""
    async with front_fakes.running_front(checkpoint, "--engine-restarts", "3") as running:
        tries: list[list[int]] = []

        def end() -> None:
            monkeypatch.setattr(keeper, "STEADY_SECONDS", 0.0)
            tries.append(fail_to_start(running, monkeypatch))
            running.handle.set_state(EngineState.FAILED)

        fail_beside_it(running, monkeypatch, end)
        running.handle.set_state(EngineState.FAILED)
        await until(lambda: not running.front.alive)
        assert tries == [[1, 2]]
