"""`embed_stream` of both clients against a scripted server."""

import asyncio
import itertools
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from client_messages import stream_answer
from headstream.client import (
    AsyncClient,
    Client,
    FailedItem,
    InvalidArgument,
    StreamBroken,
    Unimplemented,
)
from headstream.client._stream_items import BATCH_ITEMS, MAX_ITEM_BYTES
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import types_pb2


@pytest.fixture
def client(script):
    with Client(script.address, timeout=60, stream_timeout=60) as client:
        yield client


@pytest.fixture
async def async_client(script):
    async with AsyncClient(script.address, timeout=60, stream_timeout=60) as client:
        yield client


def echo(requests, context) -> Iterator[pb.EmbedStreamResponse]:
    """Answers every message in one, backwards."""
    fingerprint = types_pb2.ModelFingerprint(model="tiny")
    for request in requests:
        if request.items:
            answers = [stream_answer(item) for item in reversed(request.items)]
            yield pb.EmbedStreamResponse(answers=answers, fingerprint=fingerprint)


def recording(seen: list[pb.EmbedStreamRequest]):
    def handle(requests, context):
        def note():
            for request in requests:
                seen.append(request)
                yield request

        return echo(note(), context)

    return handle


def lengths(pairs):
    return {
        own: value if isinstance(value, FailedItem) else int(value[0])
        for own, value in dict(pairs).items()
    }


def test_pairs_come_with_numbers_or_ids_of_ones_own(script, client):
    script.embed_stream = echo
    stream = client.embed_stream("x" * i for i in range(1, 1000))
    assert lengths(stream) == {i: i + 1 for i in range(999)}
    assert stream.fingerprint is not None
    assert (stream.fingerprint.model, stream.unanswered) == ("tiny", [])
    assert list(stream) == []
    assert lengths(client.embed_stream([("a", "xx"), ("b", "x")])) == {"a": 2, "b": 1}


async def test_the_async_client_does_the_same(script, async_client):
    script.embed_stream = echo

    async def texts():
        for i in range(1, 1000):
            yield "x" * i

    stream = async_client.embed_stream(texts())
    assert lengths([pair async for pair in stream]) == {i: i + 1 for i in range(999)}
    assert stream.fingerprint is not None
    pairs = [pair async for pair in async_client.embed_stream([("a", "xx"), ("b", "x")])]
    assert lengths(pairs) == {"a": 2, "b": 1}


def test_options_go_once_and_texts_in_batches(script, client):
    seen: list[pb.EmbedStreamRequest] = []
    script.embed_stream = recording(seen)
    texts = ["x"] * 2000
    stream = client.embed_stream(texts, model="m", pooling="last", dimensions=3)
    assert len(list(stream)) == 2000
    first, *rest = seen
    assert (first.model, first.options.dimensions, len(first.items)) == ("m", 3, 0)
    assert not any(request.model or request.HasField("options") for request in rest)
    sizes = [len(request.items) for request in rest]
    assert max(sizes) == BATCH_ITEMS
    assert sizes[0] == 1, "the first does not wait for others"
    assert len(sizes) < 200


def test_bad_texts_are_errors_and_the_others_go_on(script, client):
    script.embed_stream = echo
    texts = ["a", "", "\udc80", "x" * (MAX_ITEM_BYTES + 1), 5, "bb"]
    found: dict[Any, Any] = lengths(client.embed_stream(texts))
    assert (found[0], found[5]) == (1, 2)
    assert found[1] == FailedItem(1, "INVALID_FIELD", "item.input.text: is empty")
    assert (found[2].index, found[2].reason) == (2, "INVALID_ITEM")
    assert (found[3].index, found[3].reason) == (3, "ITEM_TOO_LARGE")
    assert found[4].reason == "INVALID_ITEM"


@pytest.mark.parametrize("look_ahead", [1, 10, 100])
def test_texts_are_read_as_they_are_answered(script, client, look_ahead):
    script.embed_stream = echo
    read = 0

    def texts():
        nonlocal read
        while True:
            read += 1
            yield "x"

    with client.embed_stream(texts(), look_ahead=look_ahead) as stream:
        for taken in range(1, 500):
            next(stream)
            time.sleep(0.001)
            # One more text has been read and waits; a message of answers may not be taken yet.
            assert read <= taken + look_ahead + BATCH_ITEMS + 1
    after = read
    time.sleep(0.2)
    assert read <= after + 1, "the end of the block ends the reading"


async def test_the_async_client_reads_as_it_is_answered(script, async_client):
    script.embed_stream = echo
    read = 0

    def texts():
        nonlocal read
        while True:
            read += 1
            yield "x"

    taken = 0
    async with async_client.embed_stream(texts(), look_ahead=10) as stream:
        async for _ in stream:
            taken += 1
            assert read <= taken + 10 + 10 + 1
            if taken == 500:
                break
    assert script.ended.wait(20)


def test_memory_stays_flat(script, client):
    script.embed_stream = echo
    stream = client.embed_stream("x" * 20 for _ in range(60_000))
    for _ in range(10_000):
        next(stream)
    tracemalloc.start()
    try:
        for _ in range(40_000):
            next(stream)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 1_000_000


def broken(requests, context):
    """Answers two texts, then dies."""
    answered = 0
    for reply in echo(requests, context):
        if answered == 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        answered += len(reply.answers)
        yield reply


def test_a_stream_that_breaks_says_what_is_unanswered(script, client):
    script.embed_stream = broken
    stream = client.embed_stream([("a", "x"), ("b", "x"), ("c", "x")], look_ahead=1)
    assert [next(stream)[0], next(stream)[0]] == ["a", "b"]
    with pytest.raises(StreamBroken, match="gone") as caught:
        next(stream)
    assert (caught.value.index, stream.unanswered) == (2, ["c"])
    assert list(stream) == []


def silent(requests, context):
    for _ in requests:
        pass
    return iter(())


def test_an_end_without_all_answers_is_no_end(script, client):
    script.embed_stream = silent
    with pytest.raises(StreamBroken, match="ended without an answer to every text"):
        list(client.embed_stream(["a"]))
    script.embed_stream = lambda requests, context: iter(())
    with pytest.raises(StreamBroken, match="ended without an answer to every text"):
        list(client.embed_stream(itertools.repeat("a")))


async def test_the_async_client_tells_of_broken_streams(script, async_client):
    script.embed_stream = broken
    stream = async_client.embed_stream([("a", "x"), ("b", "x"), ("c", "x")], look_ahead=1)
    assert [(await anext(stream))[0], (await anext(stream))[0]] == ["a", "b"]
    with pytest.raises(StreamBroken, match="gone") as caught:
        await anext(stream)
    assert (caught.value.index, stream.unanswered) == (2, ["c"])
    script.embed_stream = silent
    with pytest.raises(StreamBroken, match="ended without an answer to every text"):
        [pair async for pair in async_client.embed_stream(["a"])]


def refuse(requests, context):
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "options: wrong")


def test_a_call_that_fails_raises_its_error(script, client):
    with pytest.raises(Unimplemented):
        list(client.embed_stream(["a"]))
    script.embed_stream = refuse
    with pytest.raises(InvalidArgument, match="options: wrong"):
        list(client.embed_stream("x" for _ in range(10_000)))


async def test_the_async_client_raises_it_whatever_it_was_writing(script, async_client):
    script.embed_stream = refuse
    for _ in range(20):
        with pytest.raises(InvalidArgument, match="options: wrong"):
            [pair async for pair in async_client.embed_stream(["a"] * 2000)]


def faulty():
    yield "a"
    yield "bb"
    raise KeyError("the file ends here")


def test_what_reading_the_texts_raises_comes_behind_the_answers(script, client):
    script.embed_stream = echo
    found = []
    with pytest.raises(KeyError, match="the file ends here"):
        found.extend(client.embed_stream(faulty()))
    assert sorted(number for number, _ in found) == [0, 1]


async def test_the_async_client_raises_it_too(script, async_client):
    script.embed_stream = echo
    stream = async_client.embed_stream(faulty())
    assert sorted([(await anext(stream))[0], (await anext(stream))[0]]) == [0, 1]
    with pytest.raises(KeyError, match="the file ends here"):
        await anext(stream)


def lasting(requests, context):
    """Messages end before a cancelled call counts as one; this ends no sooner than that."""
    yield from echo(requests, context)
    deadline = time.monotonic() + 10
    while context.is_active() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["leave the loop", "close"])
def test_leaving_ends_the_call_and_its_thread(script, client, way):
    script.embed_stream = lasting
    threads = threading.active_count()

    def endless():
        while True:
            yield "x"

    if way == "close":
        stream = client.embed_stream(endless())
        next(stream)
        stream.close()
    else:
        for _ in client.embed_stream(endless()):
            break
    assert script.ended.wait(20)
    assert script.was_cancelled
    deadline = time.monotonic() + 20
    while threading.active_count() > threads + 4:  # those of the server's pool stay
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_leaving_the_loop_of_the_async_client_ends_the_call(script, async_client):
    script.embed_stream = lasting

    def endless():
        while True:
            yield "x"

    async for _ in async_client.embed_stream(endless()):
        break
    assert await asyncio.to_thread(script.ended.wait, 20)
    assert script.was_cancelled


def test_arguments_are_checked_at_once(client):
    with pytest.raises(TypeError, match="several texts, not a string"):
        client.embed_stream("abc")
    with pytest.raises(ValueError, match="look_ahead 0 is below 1"):
        client.embed_stream(["a"], look_ahead=0)
    with pytest.raises(ValueError, match="pooling 'x' is none of"):
        client.embed_stream(["a"], pooling="x")
