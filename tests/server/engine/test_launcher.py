"""Processes of engines: one that ends takes those beside it along, and nobody else."""

from __future__ import annotations

import asyncio
import sys

import pytest

from headstream.server.engine.launcher import EngineProcess

SLEEPS = (sys.executable, "-S", "-c", "import time; time.sleep(600)")


async def launched(count: int) -> list[asyncio.subprocess.Process]:
    return [await asyncio.create_subprocess_exec(*SLEEPS) for _ in range(count)]


async def test_what_could_not_be_launched_has_ended() -> None:
    await asyncio.wait_for(EngineProcess().wait(), 60)


async def test_the_end_of_an_engine_ends_its_ranks_but_not_the_next_engine() -> None:
    """The next one may have started before the end of the one before is known."""
    runs = EngineProcess()
    runs._ranks = before = await launched(2)
    watching = asyncio.create_task(runs.wait())
    await asyncio.sleep(0)
    runs._ranks = after = await launched(1)
    try:
        before[0].kill()
        await asyncio.wait_for(watching, 60)
        assert [rank.returncode for rank in before] == [-9, -9]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(after[0].wait(), 1)
        runs.kill()
        assert await asyncio.wait_for(after[0].wait(), 60) == -9
    finally:
        for rank in [*before, *after]:
            if rank.returncode is None:
                rank.kill()
                await rank.wait()
