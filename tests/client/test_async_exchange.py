"""Calls of the async client that the server ends while messages are on their way to it."""

import asyncio
import itertools

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from client_messages import stream_answer, tensor
from headstream.client import AsyncClient, InvalidArgument, StreamBroken
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import logits_service_pb2 as logits_pb
from headstream.v1 import types_pb2

ROUNDS = 20
TEXT = "x" * 50_000  # a few of them are more than the connection takes unread


@pytest.fixture
async def client(script):
    async with AsyncClient(script.address, timeout=60, stream_timeout=60) as client:
        yield client


def refuse(requests, context):
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="INVALID_FIELD"))
    status = status_pb2.Status(code=3, message="options: wrong", details=[info])
    trailers = (
        ("x-request-id", "r1"),
        ("grpc-status-details-bin", status.SerializeToString()),
    )
    context.set_trailing_metadata(trailers)
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, status.message)


async def test_texts_that_are_refused_say_why(script, client):
    script.embed_stream = refuse
    for _ in range(ROUNDS):
        with pytest.raises(InvalidArgument, match="options: wrong") as caught:
            await anext(client.embed_stream(itertools.repeat(TEXT)))
        assert (caught.value.reason, caught.value.request_id) == ("INVALID_FIELD", "r1")


async def read_into(found, stream):
    async for pair in stream:
        found.append(pair)


async def test_what_came_before_the_end_is_read(script, client):
    """The server ends the call while answers lie unread and the next texts do not get through."""
    answered = 30

    def drain(requests, context):
        items = (item for request in requests for item in request.items)
        for item in itertools.islice(items, answered):
            yield embeddings_pb.EmbedStreamResponse(answers=[stream_answer(item)])
        context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    script.embed_stream = drain
    for _ in range(ROUNDS):
        stream = client.embed_stream(itertools.repeat(TEXT))
        found = [await anext(stream)]
        assert await asyncio.to_thread(script.ended.wait, 20)
        script.ended.clear()
        with pytest.raises(StreamBroken, match="draining") as caught:
            await read_into(found, stream)
        assert (len(found), caught.value.index) == (answered, answered)
        assert caught.value.code == "UNAVAILABLE"


async def test_an_end_that_is_well_stays_one(script, client):
    script.embed_stream = lambda requests, context: iter(())
    for _ in range(ROUNDS):
        with pytest.raises(StreamBroken, match="ended without an answer to every text"):
            await anext(client.embed_stream(itertools.repeat(TEXT)))


async def test_moves_that_are_refused_say_why(script, client):
    def refuse_the_second(requests, context):
        row = logits_pb.Logits(values=tensor([0, 1]))
        prompt = types_pb2.TokenIds(ids=[1])
        yield logits_pb.DecodeResponse(id=next(requests).id, prompt=prompt, logits=[row])
        refuse(requests, context)

    script.decode = refuse_the_second
    for _ in range(ROUNDS):
        async with client.decode([1]) as d:
            with pytest.raises(InvalidArgument, match="options: wrong") as caught:
                await d.append([1] * 1_000_000)
            assert caught.value.reason == "INVALID_FIELD"
