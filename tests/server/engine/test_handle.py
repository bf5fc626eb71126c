"""The front's end of a real engine: child process and thread, crashes, pauses, failed starts."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import zmq
import zmq.asyncio

from front_calls import settled, until
from headstream.model.outputs import LogitsSpec, Outputs
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.credit import CREDIT_BYTES
from headstream.server.engine.handle import EngineHandle
from headstream.server.engine.messages import Failed, Loading, StepReport
from headstream.server.engine.state import EngineState
from headstream.server.engine.stream import Event
from headstream.server.errors import EngineStartError, EngineUnavailable

PROMPT = [3, 14, 15, 92, 65]


def _config(directory: Path, cache_dir: Path, **changes: Any) -> EngineConfig:
    settings: dict[str, Any] = {
        "name": "tiny",
        "source": str(directory),
        "cache_dir": str(cache_dir),
        "dtype": "float32",
        "num_threads": 1,
        "kv_cache_bytes": 4 << 20,
        **changes,
    }
    return EngineConfig(**settings)


@pytest.fixture
async def engine(tiny_gemma: Path, cache_dir: Path) -> AsyncIterator[EngineHandle]:
    """An engine in a child process."""
    handle = EngineHandle(_config(tiny_gemma, cache_dir))
    await handle.start()
    yield handle
    await handle.stop()


async def _tokens(engine: EngineHandle, new: int = 6) -> list[int]:
    async with engine.submit(PROMPT, max_new_tokens=new) as stream:
        return [event.token.token_id async for event in stream if event.token]


async def test_process_and_thread_give_the_same(
    engine: EngineHandle, tiny_gemma: Path, cache_dir: Path
) -> None:
    """One protocol, two ways to run it."""
    local = EngineHandle(_config(tiny_gemma, cache_dir), in_process=True)
    seen: list[Loading] = []
    await local.start(seen.append)
    try:
        assert await _tokens(local) == await _tokens(engine)
        assert local.ready == engine.ready
        assert {loading.stage for loading in seen} >= {"weights"}
        rows = await local.lookup([5, 6], "float32")
        assert rows.shape == (2, 64)
        assert np.frombuffer(rows.data, np.float32).any()
    finally:
        await local.stop()


async def test_leaving_a_stream_frees_the_sequence(engine: EngineHandle) -> None:
    """Abort by leaving: blocks and queue are empty soon after."""
    async with engine.submit(PROMPT, max_new_tokens=500) as stream:
        async for _ in stream:
            break
    await _until_running(engine, 0)
    assert engine.stats is not None
    assert engine.stats.blocks_used == 0


async def _until_running(engine: EngineHandle, count: int) -> None:
    deadline = time.monotonic() + 60
    while engine.stats is None or engine.stats.running != count:
        assert time.monotonic() < deadline, f"still held: {engine.stats}"
        await asyncio.sleep(0.02)


async def test_a_sibling_that_is_left_before_it_begins_does_not_go_on(
    tiny_gemma: Path, cache_dir: Path
) -> None:
    """The engine does not know it yet, and is told again when it begins; the first goes on."""
    engine = EngineHandle(_config(tiny_gemma, cache_dir, max_num_batched_tokens=320))
    await engine.start()
    reports: list[StepReport] = []
    engine.add_listener(reports.append)
    first, *others = engine.submit_all(PROMPT * 300, [1, 2], max_new_tokens=300)
    try:
        for other in others:
            other.leave()
        assert len([event async for event in first if event.token]) == 300
        await _until_running(engine, 0)
    finally:
        await engine.stop()
    tokens = Counter(delta.id for report in reports for delta in report.deltas if delta.token)
    assert sorted(tokens) == [1, 2, 3]
    assert tokens[1] == 300
    assert max(tokens[2], tokens[3]) < 50


async def test_siblings_each_have_their_own_stream(engine: EngineHandle) -> None:
    streams = engine.submit_all(PROMPT, [0, 0], max_new_tokens=6)
    tokens = [[event.token.token_id async for event in each if event.token] for each in streams]
    assert tokens == [await _tokens(engine)] * 3


async def test_unread_stream_is_paused_and_resumed(engine: EngineHandle) -> None:
    """Beyond the credit the engine stops; reading starts it again; nothing is lost."""
    outputs = Outputs(logits=LogitsSpec("full"))  # 844 bytes a token
    async with engine.submit(PROMPT, max_new_tokens=700, outputs=outputs) as stream:
        await until(lambda: any(event.told_bytes >= CREDIT_BYTES for event in stream._events))
        await settled(lambda: len(stream._events))
        assert engine.stats is not None
        assert engine.stats.running == 1
        assert 0 <= stream._events[-1].told_bytes - CREDIT_BYTES < 844, "to the very row"
        events: list[Event] = [event async for event in stream]
    assert [event.token.index for event in events if event.token] == list(range(700))
    assert events[-2].told_bytes == 699 * 844


async def test_killed_engine_fails_streams_at_once(engine: EngineHandle) -> None:
    """kill -9: every reader hears of it, the state tells, later submits are refused."""
    states: list[EngineState] = []
    engine.on_state(states.append)
    children = [p for p in psutil.Process().children() if "engine.loop" in " ".join(p.cmdline())]
    assert len(children) == 1
    async with engine.submit(PROMPT, max_new_tokens=1000) as stream:
        iterator = aiter(stream)
        await anext(iterator)
        os.kill(children[0].pid, signal.SIGKILL)
        begin = time.monotonic()
        with pytest.raises(EngineUnavailable):
            await _exhaust(iterator)
    assert time.monotonic() - begin < 10
    assert states == [EngineState.FAILED]
    with pytest.raises(EngineUnavailable):
        engine.submit(PROMPT)


async def _exhaust(iterator: AsyncIterator[Event]) -> None:
    async for _ in iterator:
        pass


async def test_start_fails_with_the_reason(tmp_path: Path, cache_dir: Path) -> None:
    """A directory without weights: one clear error, no process left."""
    handle = EngineHandle(_config(tmp_path, cache_dir))
    with pytest.raises(EngineStartError, match=r"config\.json"):
        await handle.start()
    assert handle.state is EngineState.FAILED
    await handle.stop()


class LateWords:
    """A process whose end is seen before what it said."""

    async def launch(self, config: EngineConfig, address: str) -> None:
        self._speaking = asyncio.create_task(self._speak(address))

    async def _speak(self, address: str) -> None:
        await asyncio.sleep(0.2)
        with zmq.asyncio.Context.instance().socket(zmq.PAIR) as socket:
            socket.connect(address)
            await socket.send(msgspec.msgpack.encode(Failed("no config.json")))
            await asyncio.sleep(0.2)

    async def wait(self) -> None:
        await asyncio.sleep(0)

    def kill(self) -> None:
        pass


async def test_the_reason_counts_though_the_process_has_ended(tmp_path: Path) -> None:
    handle = EngineHandle(_config(tmp_path, tmp_path))
    late: Any = LateWords()
    handle._runs = late
    faults: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    with pytest.raises(EngineStartError, match=r"no config\.json"):
        await handle.start()
    await late._speaking
    await handle.stop()  # nobody is there to be told of it
    gc.collect()
    assert faults == []


async def test_an_end_that_was_asked_for_is_no_failure(tiny_gemma: Path, cache_dir: Path) -> None:
    handle = EngineHandle(_config(tiny_gemma, cache_dir))
    states: list[EngineState] = []
    handle.on_state(states.append)
    await handle.start()
    await handle.stop()
    assert states == [EngineState.SERVING, EngineState.STOPPED]
    with pytest.raises(EngineUnavailable):
        handle.submit(PROMPT)


async def test_a_start_that_nobody_waits_for_is_no_failure(
    tiny_gemma: Path, cache_dir: Path
) -> None:
    handle = EngineHandle(_config(tiny_gemma, cache_dir), in_process=True)
    begun = asyncio.Event()
    starting = asyncio.create_task(handle.start(lambda _: begun.set()))
    await begun.wait()
    starting.cancel()
    await until(lambda: handle.state is EngineState.SERVING)
    assert len(await _tokens(handle)) == 6
    await handle.stop()


async def test_budget_too_small_is_refused_at_start(tiny_gemma: Path, cache_dir: Path) -> None:
    """Settings that could starve prompts never serve."""
    handle = EngineHandle(_config(tiny_gemma, cache_dir, max_num_batched_tokens=100))
    with pytest.raises(EngineStartError, match="max_num_batched_tokens"):
        await handle.start()
    await handle.stop()


def test_engine_dies_with_its_parent(tiny_gemma: Path, cache_dir: Path) -> None:
    """kill -9 of the front leaves no engine behind."""
    code = f"""
import asyncio, sys
from pathlib import Path
import msgspec
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.handle import EngineHandle
async def main():
    handle = EngineHandle(msgspec.convert({msgspec_dict(tiny_gemma, cache_dir)!r}, EngineConfig))
    await handle.start()
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as front:
        assert front.stdout is not None
        assert front.stdout.readline() == "ready\n"
        engines = psutil.Process(front.pid).children()
        assert len(engines) == 1
        front.kill()
        _, alive = psutil.wait_procs(engines, timeout=60)
    assert not alive


def msgspec_dict(directory: Path, cache_dir: Path) -> dict[str, object]:
    """The settings as plain values, for a child's source text."""
    result: dict[str, object] = msgspec.to_builtins(_config(directory, cache_dir))
    return result
