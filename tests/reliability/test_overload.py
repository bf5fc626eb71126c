"""Three times as many requests as a server can answer, each with a deadline of a second.

Rates are compared, so this is for a machine that does nothing else: `tests/server/test_overload.py`
shows the same with an engine of a known pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from open_load import OpenLoad, Outcome
from outcome import Table
from server_process import running_server, save_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DEADLINE = 1.0
TIMES = 3
SECONDS = 20.0
TOKENS = 1900  # of a text: work for the engine, little for the front and for us
WORKERS = 4  # their texts just fit the queue
# A queue in which a second is not enough to come to the front.
ENDLESS = ("--max-queued-requests", "1000000", "--max-queued-tokens", "1000000000")


@pytest.fixture(autouse=True)
def alone(*, long: bool) -> None:
    """A machine that is shared tells nothing here."""
    if not long:
        pytest.skip("rates are compared: make reliability")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@asynccontextmanager
async def loading(checkpoint: Path, *flags: str) -> AsyncGenerator[OpenLoad]:
    """A server of its own, warm."""
    with running_server(checkpoint, "--dtype", "float32", *flags) as server:
        load = OpenLoad(server.address, DEADLINE, TOKENS)
        try:
            await load.closed(1.0, WORKERS)
            yield load
        finally:
            await load.close()


async def overloaded(load: OpenLoad, *, tell_deadline: bool = True) -> tuple[float, Outcome]:
    """Answers a second at full load, as measured before and behind, and what overload left."""
    before = await load.closed(SECONDS / 2, WORKERS)
    outcome = await load.open(SECONDS, TIMES * before.rate, tell_deadline=tell_deadline)
    if not tell_deadline:
        return before.rate, outcome
    await asyncio.sleep(DEADLINE)
    behind = await load.closed(SECONDS / 2, WORKERS)
    return (before.rate + behind.rate) / 2, outcome


def put(table: Table, name: str, capacity: float, outcome: Outcome) -> float:
    """Good answers, as a part of what the server can give."""
    part = outcome.rate / capacity
    refused = outcome.codes["RESOURCE_EXHAUSTED"]
    what = f"{name}: {outcome.rate:.0f} of {capacity:.0f}/s in time ({part:.0%}), "
    what += (
        f"refused within {outcome.refusal_ms(50):.1f} ms (p50), {outcome.refusal_ms(99):.1f} (p99)"
    )
    table.add(what, outcome.sent, outcome.good, outcome.sent - outcome.good - refused)
    return part


@pytest.mark.parametrize(
    ("name", "flags"),
    [("overload, as it is set", ()), ("overload, the deadline alone", ENDLESS)],
    ids=["bounded", "estimated"],
)
async def test_a_server_at_its_limit_still_answers(
    name: str, flags: tuple[str, ...], checkpoint: Path, table: Table
) -> None:
    """What it cannot answer in time it refuses at once, by either of its two means."""
    async with loading(checkpoint, *flags) as load:
        capacity, outcome = await overloaded(load)
    part = put(table, name, capacity, outcome)
    assert outcome.codes["RESOURCE_EXHAUSTED"] > 0
    assert part >= 0.9
    assert outcome.refusal_ms(99) < 10


async def test_without_either_it_works_for_those_who_are_gone(
    checkpoint: Path, table: Table
) -> None:
    """Negative control: no bound, and a deadline that the server is not told."""
    async with loading(checkpoint, *ENDLESS) as load:
        capacity, outcome = await overloaded(load, tell_deadline=False)
    part = put(table, "control: overload, neither", capacity, outcome)
    assert part < 0.4
