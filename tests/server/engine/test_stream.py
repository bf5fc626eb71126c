"""What a reader leaves unread is counted in full, and pauses its sequence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from headstream.server.engine.stream import (
    Event,
    LensEvent,
    LogitRowEvent,
    PatternEvent,
    RowsEvent,
    ScoresEvent,
    SeenEvent,
    SequenceStream,
    SiteEvent,
    TokenEvent,
    WireTensor,
)

EMPTY = Event(None, (), None, None, None, 0, 0)


def tensor(*shape: int) -> WireTensor:
    return WireTensor("float32", shape, np.zeros(shape, "<f4").tobytes())


def ids(*shape: int) -> bytes:
    return np.zeros(shape, "<i4").tobytes()


PATTERN = PatternEvent(1, (0, 1, 2), tensor(2, 3, 5), ids(2, 3, 5))
EVENTS = [
    (EMPTY, 0),
    (dataclasses.replace(EMPTY, vectors=tensor(3, 4)), 48),
    (dataclasses.replace(EMPTY, rows=(RowsEvent(1, 0, tensor(3, 4)),) * 2), 96),
    (dataclasses.replace(EMPTY, token=TokenEvent(0, 7, None, None, ())), 0),
    (dataclasses.replace(EMPTY, token=TokenEvent(0, 7, None, tensor(5), (1, 2, 3, 4, 5))), 40),
    (dataclasses.replace(EMPTY, logit_rows=(LogitRowEvent(0, tensor(2), (8, 9)),)), 16),
    (dataclasses.replace(EMPTY, scores=ScoresEvent(1, tensor(3, 4), None, b"")), 48),
    (dataclasses.replace(EMPTY, scores=ScoresEvent(1, tensor(3, 4), tensor(4, 2), ids(4, 2))), 112),
    (
        dataclasses.replace(
            EMPTY, seen=SeenEvent(sites=(SiteEvent("q", (1,), 0, tensor(1, 2, 8)),))
        ),
        64,
    ),
    (dataclasses.replace(EMPTY, seen=SeenEvent(patterns=(PATTERN,))), 240),
    (
        dataclasses.replace(
            EMPTY, seen=SeenEvent(lens=(LensEvent(0, 0, tensor(2, 3), ids(2, 3)),))
        ),
        48,
    ),
]


@pytest.mark.parametrize(("event", "num_bytes"), EVENTS)
def test_values_and_their_ids_count(event: Event, num_bytes: int) -> None:
    assert event.num_bytes == num_bytes


async def test_keys_of_attention_pause_the_sequence() -> None:
    """The weights alone, 120 bytes each, would stay within the credit."""
    flows: list[bool] = []
    stream = SequenceStream(lambda: None, flows.append, credit_bytes=300)
    event = dataclasses.replace(EMPTY, seen=SeenEvent(patterns=(PATTERN,)))
    stream.put(event)
    assert flows == []
    stream.put(event)
    assert flows == [True]
    stream.put(dataclasses.replace(EMPTY, finish="length"))
    assert len([each async for each in stream]) == 3
    assert flows == [True, False]
