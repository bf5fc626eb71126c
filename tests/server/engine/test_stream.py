"""What is told of a sequence is counted in full, and what is read of it extends its credit."""

from __future__ import annotations

import dataclasses

import pytest

from headstream.server.engine.credit import CREDIT_BYTES, num_bytes
from headstream.server.engine.frame import Frame
from headstream.server.engine.look import LensRows, Pattern, Seen, SiteValues
from headstream.server.engine.messages import Delta, LogitRow, Rows, Scores, Token
from headstream.server.engine.stream import Event, SequenceStream

EMPTY = Event(None, (), None, None, None, 0, 0)
FRAMES = [bytes(48), bytes(20), bytes(120)]
A, B, C = (Frame(index, "float32", (len(frame) // 4,)) for index, frame in enumerate(FRAMES))
DELTAS = [
    (Delta(1), 0),
    (Delta(1, vectors=A), 48),
    (Delta(1, rows=(Rows(1, 0, A), Rows(2, 0, A))), 96),
    (Delta(1, token=Token(0, 7)), 0),
    (Delta(1, token=Token(0, 7, None, B, (1, 2, 3, 4, 5))), 40),
    (Delta(1, logit_rows=(LogitRow(0, B, (8, 9)),)), 28),
    (Delta(1, scores=Scores(1, A)), 48),
    (Delta(1, scores=Scores(1, A, B, bytes(20))), 88),
    (Delta(1, seen=Seen(sites=(SiteValues("q", (1,), 0, A),))), 48),
    (Delta(1, seen=Seen(patterns=(Pattern(1, (0, 1, 2), C, bytes(120)),))), 240),
    (Delta(1, seen=Seen(lens=(LensRows(0, 0, B, bytes(20)),))), 40),
]


@pytest.mark.parametrize(("delta", "size"), DELTAS)
def test_values_and_their_ids_count(delta: Delta, size: int) -> None:
    assert num_bytes(delta, FRAMES) == size


async def _read(sizes: list[int]) -> list[tuple[int, int]]:
    """Put events of these sizes and read them: how many were begun, and the credit, each time."""
    given: list[tuple[int, int]] = []
    begun = 0
    stream = SequenceStream(lambda: None, lambda credit: given.append((begun, credit)))
    told = 0
    for size in sizes:
        told += size
        stream.put(dataclasses.replace(EMPTY, told_bytes=told if size else 0))
    stream.put(dataclasses.replace(EMPTY, finish="length"))
    async for _ in stream:
        begun += 1
    return given


async def test_credit_grows_behind_what_was_read() -> None:
    """Not by each event, and not by one that the caller still has in hand."""
    size = CREDIT_BYTES // 8
    assert await _read([size] * 9) == [
        (4, CREDIT_BYTES + 4 * size),
        (8, CREDIT_BYTES + 8 * size),
    ]


async def test_a_few_large_events_may_be_made_while_one_is_written() -> None:
    size = 4 * CREDIT_BYTES
    assert await _read([size] * 3) == [(n, (n + 4) * size) for n in (1, 2, 3)]


async def test_of_very_large_events_one_is_made_while_one_is_written() -> None:
    size = 64 * CREDIT_BYTES
    assert await _read([size] * 3) == [(n, (n + 1) * size + 1) for n in (1, 2, 3)]


async def test_events_without_tensors_take_no_credit() -> None:
    assert await _read([0] * 9) == []
