"""Rows cut into answers, and put together again by the client."""

from __future__ import annotations

import numpy as np
import pytest

import front_values
from headstream.client._decode_rows import Answers
from headstream.server.engine.stream import LogitRowEvent, WireTensor
from headstream.server.errors import InvalidRequest, ReplyTooLarge
from headstream.server.wire.decode import parse_append, parse_open, to_parts
from headstream.server.wire.tensors import CHUNK_BYTES
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import types_pb2

MIB_VALUES = CHUNK_BYTES // 4


def rows(count: int, width: int) -> list[LogitRowEvent]:
    values = np.arange(count * width, dtype="<f4").reshape(count, width)
    return [
        LogitRowEvent(i, WireTensor("float32", (width,), row.tobytes()), ())
        for i, row in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("count", "width", "parts"),
    [
        (1, 5, 1),
        (900, 5, 1),
        (3, MIB_VALUES // 2, 2),
        (5, MIB_VALUES // 3, 2),
        (3, MIB_VALUES, 3),
        (1, MIB_VALUES + 1, 3),  # the head of the row, and two chunks
        (3, 3 * MIB_VALUES, 12),
    ],
)
def test_rows_come_in_parts_that_a_default_client_takes(count: int, width: int, parts: int) -> None:
    answers, cut = Answers(), list(to_parts(rows(count, width)))
    assert len(cut) == parts
    for part in cut[:-1]:
        part.more = True
        assert part.ByteSize() < 2 * CHUNK_BYTES
        assert answers.feed(part) is None
    complete = answers.feed(cut[-1])
    assert complete is not None
    expected = np.arange(count * width, dtype="<f4").reshape(count, width)
    assert np.array_equal(complete[1].values(), expected)


def test_a_row_that_is_not_all_there_is_no_row() -> None:
    *cut, _ = to_parts(rows(1, 3 * MIB_VALUES))
    answers = Answers()
    for part in cut[:-1]:
        part.more = True
        answers.feed(part)
    complete = answers.feed(cut[-1])
    assert complete is not None
    with pytest.raises(ValueError, match="row 0 has 2097152 of 3145728 bytes"):
        complete[1].values()


def opened(**fields: object) -> pb.DecodeRequest:
    prompt = types_pb2.Input(token_ids=types_pb2.TokenIds(ids=[1, 2]))
    return pb.DecodeRequest(open=pb.DecodeOpen(prompt=prompt, **fields))  # type: ignore[arg-type]


def test_full_rows_are_the_default() -> None:
    limits = front_values.make_limits()
    assert parse_open(opened(), limits).logits.mode == "full"
    logprobs = pb.LogitsOptions(scale=pb.LOGITS_SCALE_LOGPROBS)
    assert parse_open(opened(logits=logprobs), limits).logits.logprobs
    top = pb.LogitsOptions(mode=pb.LOGITS_MODE_TOP_K)
    assert parse_open(opened(logits=top), limits).logits.mode == "top"
    assert parse_open(opened(), limits).max_tokens == limits.max_model_len


def test_the_rows_of_a_move_keep_the_limit_of_a_reply() -> None:
    limits = front_values.make_limits(max_reply_bytes=3 * 400 * 4)
    call = parse_open(opened(), limits)
    assert parse_append(pb.DecodeAppend(token_ids=[1, 2, 3]), 2, call, limits) == (1, 2, 3)
    with pytest.raises(ReplyTooLarge, match="would take 6400 bytes; the limit is 4800"):
        parse_append(pb.DecodeAppend(token_ids=[1] * 4), 2, call, limits)
    with pytest.raises(InvalidRequest, match=r"append\.token_ids\[1\]: 400 is not in \[0, 400\)"):
        parse_append(pb.DecodeAppend(token_ids=[1, 400]), 2, call, limits)
