"""A front whose engine answers ten requests a second, and callers who send three times as many."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path

import pytest

from front_fakes import Job, Running, play, running_front
from open_load import OpenLoad, Outcome

CAPACITY = 10.0  # a second
SECONDS = 6.0
ENDLESS = ("--max-queued-requests", "1000000", "--max-queued-tokens", "1000000000")


async def serve(jobs: deque[Job], running: Running) -> None:
    """One after the other, as an engine does that passes over those who have left."""
    ready = running.handle.ready
    assert ready is not None
    while True:
        await asyncio.sleep(1 / CAPACITY)
        while jobs and jobs[0].left:
            jobs.popleft()
        if jobs:
            play(jobs.popleft(), ready)


async def overload(checkpoint: Path, *, tell_deadline: bool) -> Outcome:
    async with running_front(checkpoint, *ENDLESS) as running:
        jobs = deque[Job]()
        running.handle.script = jobs.append
        serving = asyncio.create_task(serve(jobs, running))
        load = OpenLoad(running.ports.address, deadline=1.0, num_tokens=8)
        try:
            return await load.open(SECONDS, 3 * CAPACITY, tell_deadline=tell_deadline)
        finally:
            await load.close()
            serving.cancel()


async def test_who_could_not_be_answered_in_time_is_refused_and_the_others_are_answered(
    checkpoint: Path,
) -> None:
    outcome = await overload(checkpoint, tell_deadline=True)
    assert outcome.codes["RESOURCE_EXHAUSTED"] > outcome.sent / 3
    assert outcome.rate > 0.6 * CAPACITY
    assert outcome.refusal_ms(50) < 100


async def test_an_endless_queue_of_unknown_deadlines_answers_nobody_in_time(
    checkpoint: Path,
) -> None:
    """The control."""
    outcome = await overload(checkpoint, tell_deadline=False)
    assert outcome.rate < 0.4 * CAPACITY


@pytest.mark.parametrize("bound", [3])
async def test_a_short_queue_does_as_well(checkpoint: Path, bound: int) -> None:
    """Without a word about deadlines."""
    async with running_front(checkpoint, "--max-queued-requests", str(bound)) as running:
        jobs = deque[Job]()
        running.handle.script = jobs.append
        serving = asyncio.create_task(serve(jobs, running))
        load = OpenLoad(running.ports.address, deadline=1.0, num_tokens=8)
        outcome = await load.open(SECONDS, 3 * CAPACITY, tell_deadline=False)
        await load.close()
        serving.cancel()
    assert outcome.rate > 0.6 * CAPACITY
