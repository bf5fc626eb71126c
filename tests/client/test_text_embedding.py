"""Texts that are embedded each for itself: vectors of any type, how they were made, and errors."""

import grpc
import numpy as np
import pytest

from client_messages import vectors
from headstream.client import AsyncClient, Client, FailedItem, TextEmbedding, unpack_binary
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import tensor_pb2


@pytest.fixture
def client(script):
    with Client(script.address) as client:
        yield client


def reply_of(*results):
    return embeddings_pb.EmbedResponse(results=results)


def result(dtype, shape, data, **fields):
    tensor = tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data)
    return embeddings_pb.EmbedResult(embedding=embeddings_pb.Embedding(vectors=tensor, **fields))


BAD = embeddings_pb.EmbedResult(
    error=embeddings_pb.ItemError(code=3, message="is empty", reason="INVALID_FIELD")
)


def test_a_bad_text_has_its_place_among_the_others(script, client):
    good = vectors([1, 2]).results[0]
    good.embedding.num_tokens, good.embedding.truncated = 7, True
    script.embed = lambda request, context: reply_of(good, BAD)
    first, second = client.embed_each(["a", ""], dimensions=2, truncate=True)
    assert isinstance(first, TextEmbedding)
    assert (first.num_tokens, first.truncated, first.dimensions) == (7, True, 2)
    assert first.scales is None
    assert first.to_float32().tolist() == [1, 2]
    assert second == FailedItem(1, "INVALID_FIELD", "is empty")
    sent = script.requests[0].options
    assert (sent.dimensions, sent.truncate) == (2, True)


@pytest.mark.parametrize(
    ("code", "reason", "passing"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", False),
        (grpc.StatusCode.FAILED_PRECONDITION, "NO_CHAT_TEMPLATE", False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "REPLY_TOO_LARGE", False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "DEADLINE_TOO_SHORT", True),
        (grpc.StatusCode.INTERNAL, "INTERNAL", True),
    ],
)
def test_what_may_pass_is_told_from_what_lasts(script, client, code, reason, passing):
    error = embeddings_pb.ItemError(code=code.value[0], message="m", reason=reason)
    script.embed = lambda request, context: reply_of(embeddings_pb.EmbedResult(error=error))
    assert client.embed_each(["a"]) == [FailedItem(0, reason, "m", passing=passing)]


def test_spans_go_with_their_texts(script, client):
    script.embed = lambda request, context: vectors([[1, 2]], [3, 4])
    first, second = client.embed_each(["abc", "d"], spans=[[(1, 2)], []], unit="byte")
    assert (first.vectors.shape, second.vectors.shape) == ((1, 2), (2,))
    [one, none] = script.requests[0].inputs
    assert [(span.start, span.end) for span in one.spans] == [(1, 2)]
    assert not none.spans


def test_int8_is_scaled_by_vector(script, client):
    codes = np.array([[127, -1], [0, 127]], np.int8)
    spans = result(tensor_pb2.DATA_TYPE_INT8, [2, 2], codes.tobytes(), scales=[0.5, 2])
    whole = result(tensor_pb2.DATA_TYPE_INT8, [2], codes[0].tobytes(), scales=[0.25])
    script.embed = lambda request, context: reply_of(spans, whole)
    first, second = client.embed_each(["ab", "c"], dtype="int8")
    assert first.vectors.dtype == np.int8
    assert first.to_float32().tolist() == [[63.5, -0.5], [0, 254]]
    assert second.to_float32().tolist() == [31.75, -0.25]
    assert second.to_float32().dtype == np.float32


def test_binary_is_unpacked_to_signs(script, client):
    values = np.random.default_rng(0).normal(size=(2, 12))
    packed = np.packbits(values > 0, axis=-1)
    spans = result(tensor_pb2.DATA_TYPE_BINARY, values.shape, packed.tobytes())
    script.embed = lambda request, context: reply_of(spans)
    [found] = client.embed_each(["ab"], dtype="binary")
    assert found.vectors.shape == (2, 2)
    np.testing.assert_array_equal(found.to_float32(), np.where(values > 0, 1, -1))
    signs = unpack_binary(found.vectors, found.dimensions).astype(int)
    differ = ((values[0] > 0) != (values[1] > 0)).sum()
    assert signs[0] @ signs[1] == 12 - 2 * differ


@pytest.mark.asyncio
async def test_the_async_client_gives_the_same(script):
    script.embed = lambda request, context: reply_of(BAD, vectors([1, 2]).results[0])
    async with AsyncClient(script.address) as client:
        first, second = await client.embed_each(["", "a"], spans=[[], [(0, 1)]])
    assert first == FailedItem(0, "INVALID_FIELD", "is empty")
    assert isinstance(second, TextEmbedding)
    assert script.requests[0].inputs[1].spans[0].end == 1
