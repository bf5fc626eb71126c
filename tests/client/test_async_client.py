"""The async client against a real server: what differs from the sync one, which is the I/O."""

import asyncio
import time
from itertools import chain

import grpc
import pytest

from client_messages import (
    END,
    END_TOKENS,
    ROWS,
    START,
    continuations,
    ends,
    steps,
    tensor,
    token_events,
    vectors,
)
from headstream.client import AsyncClient, StreamBroken, Unavailable
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import model_service_pb2 as model_pb
from headstream.v1 import tokenizer_service_pb2 as tokenizer_pb
from headstream.v1 import types_pb2


@pytest.fixture
async def client(script):
    async with AsyncClient(script.address, timeout=60, stream_timeout=60) as client:
        yield client


async def test_generate_streams_steps_and_then_knows_the_whole(script, client):
    script.generate = lambda request, context: iter([START, *steps(3), END])
    generation = client.generate("a")
    assert [step.text async for step in generation] == [" 0", " 1", " 2"]
    assert (generation.text, generation.finish_reason) == (" 0 1 2", "stop")
    assert [step async for step in generation] == []
    assert script.ended.wait(20)
    assert not script.was_cancelled


async def test_the_texts_of_several_continuations(script, client):
    script.generate = lambda request, context: chain(continuations(2, 1), ends(1, 0))
    assert await client.generate("a", n=2).read_texts() == [" 0 1", " 0"]
    assert script.requests[0].sampling.n == 2


def endless(request, context):
    yield from (START, *steps(1))
    while context.is_active():
        time.sleep(0.01)


async def ended(script):
    return await asyncio.to_thread(script.ended.wait, 20)


async def test_leaving_the_loop_ends_the_call_on_the_server(script, client):
    script.generate = endless
    async for _ in client.generate("a"):
        break
    assert await ended(script)
    assert script.was_cancelled


async def test_aclose_and_async_with_end_the_call(script, client):
    script.generate = endless
    async with client.generate("a") as generation:
        assert (await anext(generation)).index == 0
    assert await ended(script)
    assert script.was_cancelled
    assert [step async for step in generation] == []


async def test_cancelling_the_task_ends_the_call_on_the_server(script, client):
    script.generate = endless

    reading = asyncio.Event()

    async def read():
        async for _ in client.generate("a"):
            reading.set()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ended(script)
    assert script.was_cancelled


async def test_a_stream_without_its_end_is_broken_where_it_stopped(script, client):
    script.generate = lambda request, context: iter([START, *steps(2)])
    with pytest.raises(StreamBroken) as caught:
        [step async for step in client.generate("a")]
    assert caught.value.index == 2

    def dies(request, context):
        yield from (START, *steps(1))
        context.abort(grpc.StatusCode.INTERNAL, "gone")

    script.generate = dies
    with pytest.raises(StreamBroken) as caught:
        [step async for step in client.generate("a")]
    assert (caught.value.index, caught.value.code) == (1, "INTERNAL")


async def test_unary_calls_and_embed_tokens(script, client):
    script.embed = lambda request, context: vectors(*[[1, 2] for _ in request.inputs])
    assert (await client.embed("a")).shape == (2,)
    assert (await client.embed(["a", "b"])).shape == (2, 2)
    script.embed_tokens = lambda request, context: iter([*token_events(ROWS), END_TOKENS])
    assert (await client.embed_tokens("é", layers=[0, -1])).vectors.shape == (2, 3, 2)
    script.embed_tokens = lambda request, context: token_events(ROWS)
    with pytest.raises(StreamBroken):
        await client.embed_tokens("é", layers=[0, -1])


async def test_many_calls_share_one_client(script, client):
    script.embed = lambda request, context: vectors([1, 2])
    rows = await asyncio.gather(*(client.embed("a") for _ in range(20)))
    assert len(rows) == 20


async def test_a_missing_server_is_told_within_the_connect_timeout():
    async with AsyncClient("127.0.0.1:1", connect_timeout=0.3) as client:
        with pytest.raises(Unavailable, match=r"no healthy server at 127\.0\.0\.1:1 within 0\.3 s"):
            await client.models()
        with pytest.raises(Unavailable):
            await anext(client.generate("a"))


async def test_every_other_method_gives_what_the_sync_one_gives(script, client):
    script.embed = lambda request, context: vectors([[1, 2], [3, 4]])
    assert (await client.embed_spans("ab", [(0, 1), (1, 2)])).tolist() == [[1, 2], [3, 4]]
    script.lookup = lambda request, context: embeddings_pb.LookupEmbeddingsResponse(
        tokens=types_pb2.TokenIds(ids=[4]), rows=tensor([[1, 2]])
    )
    assert (await client.lookup([4])).token_ids == [4]
    script.tokenize = lambda request, context: tokenizer_pb.TokenizeResponse()
    assert len(await client.tokenize("")) == 0
    script.detokenize = lambda request, context: tokenizer_pb.DetokenizeResponse(text="a")
    assert await client.detokenize([4]) == "a"
    script.list_models = lambda request, context: model_pb.ListModelsResponse(
        models=[model_pb.Model(name="tiny")]
    )
    assert [model.name for model in await client.models()] == ["tiny"]
    script.get_model = lambda request, context: model_pb.GetModelResponse(
        model=model_pb.Model(name="tiny", state=model_pb.MODEL_STATE_FAILED)
    )
    assert (await client.model()).state == "failed"


async def test_embed_tokens_that_fails_midway_is_a_broken_stream(script, client):
    def dies(request, context):
        yield from token_events(ROWS[:1])
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    script.embed_tokens = dies
    with pytest.raises(StreamBroken) as caught:
        await client.embed_tokens("é", layers=[0, -1])
    assert (caught.value.index, caught.value.code) == (2, "UNAVAILABLE")
