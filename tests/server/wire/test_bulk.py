"""Messages in parts, beside the same messages as protobuf makes them."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import Message

from front_values import float_tensor
from headstream.server.engine.stream import TokenEvent
from headstream.server.wire.bulk import BULK_BYTES, Bulk, serialize, to_message
from headstream.server.wire.generate import step_events
from headstream.server.wire.tensors import CHUNK_BYTES
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import tensor_pb2


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21])
def test_the_parts_are_the_message(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    chunk = pb.GenerateChunk(index=3, offset=70_000)
    whole = pb.GenerateResponse(continuation=2)
    inner = [(chunk, pb.GenerateChunk.DATA_FIELD_NUMBER)]
    bulk = Bulk(whole, pb.GenerateResponse.CHUNK_FIELD_NUMBER, inner, data[:size])
    expected = pb.GenerateResponse(
        continuation=2, chunk=pb.GenerateChunk(index=3, offset=70_000, data=data[:size])
    )
    assert pb.GenerateResponse.FromString(bulk.SerializeToString()) == expected
    assert to_message(bulk) == to_message(expected) == expected


@pytest.mark.parametrize("ids", [(), tuple(range(BULK_BYTES // 4))])
def test_a_long_row_is_in_its_step_once(ids: tuple[int, ...]) -> None:
    row = float_tensor(np.linspace(-9, 9, BULK_BYTES // 4, dtype=np.float32))
    token = TokenEvent(5, 77, -0.5, row, ids)
    [reply] = step_events(token, "word", 1)
    assert isinstance(reply, Bulk), "an ordinary message would be copied"
    values = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=row.shape, data=row.data)
    expected = pb.GenerateResponse(
        continuation=1,
        step=pb.GenerateStep(
            index=5,
            token_id=77,
            text="word",
            logprob=-0.5,
            logits=pb.Logits(values=values, token_ids=ids),
        ),
    )
    data = serialize(reply)
    assert pb.GenerateResponse.FromString(data) == expected
    # No field comes twice: parsers that do not merge, as some have, read it too.
    assert len(data) == expected.ByteSize()


def test_a_row_longer_than_a_message_comes_in_chunks() -> None:
    row = float_tensor(np.arange(CHUNK_BYTES // 4 + 3, dtype=np.float32))
    step, *chunks = (
        to_message(reply) for reply in step_events(TokenEvent(0, 1, None, row, ()), "", 0)
    )
    assert step.step.chunks == len(chunks) == 2
    assert not step.step.logits.values.data
    assert b"".join(each.chunk.data for each in chunks) == row.data
    assert [each.chunk.offset for each in chunks] == [0, CHUNK_BYTES]


def test_a_short_row_is_an_ordinary_message() -> None:
    [reply] = step_events(TokenEvent(0, 1, None, float_tensor(np.zeros(4)), ()), "", 0)
    assert isinstance(reply, Message)
