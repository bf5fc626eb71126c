"""A stream that breaks and is taken up: what is asked for, and what the user sees of it."""

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from client_messages import END, steps, tensor
from headstream.client import (
    AsyncClient,
    Client,
    Internal,
    InvalidArgument,
    NotResumable,
    StreamBroken,
    Unavailable,
)
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import types_pb2

UNAVAILABLE, ABORTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED
CANCELLED = grpc.StatusCode.CANCELLED  # not by the client: a proxy resets what a dead server served


def start(request_id="r1", **fingerprint):
    told: Any = {"model": "tiny", "weights_sha256": "a", "batch_invariant": True} | fingerprint
    return pb.GenerateResponse(
        start=pb.GenerateStart(
            request_id=request_id,
            fingerprint=types_pb2.ModelFingerprint(**told),
            prompt=types_pb2.TokenIds(ids=[7, 8]),
            seed=99,
        )
    )


def serve(script, *streams):
    """Each call gets the next stream; a status in it ends the call."""
    left = iter(streams)

    def generate(request, context):
        for event in next(left):
            if isinstance(event, grpc.StatusCode):
                context.abort(event, "gone")
            yield event

    script.generate = generate


@pytest.fixture(params=["sync", "async"])
def read(script, request):
    """All steps of a continuation, and the whole."""

    def read_sync(**options):
        with Client(script.address, timeout=60, stream_timeout=60) as client:
            generation = client.generate("a", **options)
            return list(generation), generation

    async def read_all(**options):
        async with AsyncClient(script.address, timeout=60, stream_timeout=60) as client:
            generation = client.generate("a", **options)
            return [step async for step in generation], generation

    def read_async(**options):
        return asyncio.run(read_all(**options))

    return read_sync if request.param == "sync" else read_async


@pytest.mark.parametrize("end", [(UNAVAILABLE,), (ABORTED,), (CANCELLED,), ()])
def test_no_gap_and_no_duplicate(script, read, end):
    serve(
        script,
        [start(), *steps(3), *end],
        [start("r2"), *steps(1, 2), UNAVAILABLE],
        [start("r3"), *steps(3, 2), END],
    )
    told, whole = read(resume=2, temperature=1.0, max_new_tokens=20)
    assert [step.index for step in told] == [0, 1, 2, 3, 4]
    assert [step.text for step in told] == [" 0", " 1", " 2", " 3", " 4"]
    assert (whole.text, whole.finish_reason, whole.request_id) == (" 0 1 2 3 4", "stop", "r3")
    first, *others = script.requests
    assert not first.generated_token_ids
    for request in others:
        expected = pb.GenerateRequest()
        expected.CopyFrom(first)
        expected.model = "tiny"
        expected.prompt.CopyFrom(types_pb2.Input(token_ids=types_pb2.TokenIds(ids=[7, 8])))
        expected.sampling.seed = 99
        expected.generated_token_ids.extend([0, 1])  # the last token comes again
        assert request == expected


@pytest.mark.parametrize("code", [UNAVAILABLE, CANCELLED])
def test_a_stream_that_had_not_begun_is_asked_for_again(script, read, code):
    serve(script, [code], [start(), code], [start(), *steps(2), END])
    told, whole = read(resume=2)
    assert [step.index for step in told] == [0, 1]
    assert script.requests[0] == script.requests[1]
    assert whole.text == " 0 1"
    serve(script, [UNAVAILABLE])
    with pytest.raises(Unavailable):
        read()


def test_the_end_alone_may_be_missing(script, read):
    serve(script, [start(), *steps(3), UNAVAILABLE], [start(), *steps(1, 2), END])
    told, whole = read(resume=1, max_new_tokens=3)
    assert [step.index for step in told] == [0, 1, 2]
    assert list(script.requests[1].generated_token_ids) == [0, 1]
    assert (whole.text, whole.finish_reason) == (" 0 1 2", "stop")


def test_incomplete_steps_come_anew(script, read):
    """A row without its last chunk, and vectors that never came."""
    row = np.arange(4, dtype="<f4").tobytes()

    def whole(index, *, vectors=True):
        logits = pb.Logits(values=tensor(np.arange(4)))
        logits.values.data = b""
        step = pb.GenerateStep(
            index=index, token_id=index, text=f" {index}", logits=logits, chunks=2
        )
        yield pb.GenerateResponse(step=step)
        for offset in (0, 8):
            chunk = pb.GenerateChunk(index=index, offset=offset, data=row[offset : offset + 8])
            yield pb.GenerateResponse(chunk=chunk)
        if vectors:
            embedding = pb.GenerateEmbedding(index=index, vectors=tensor([[index, 0]]))
            yield pb.GenerateResponse(embedding=embedding)

    cut = [*whole(0), *whole(1), *whole(2, vectors=False), next(whole(3)), UNAVAILABLE]
    rest = [event for index in (1, 2, 3) for event in whole(index)]
    serve(script, [start(), *cut], [start(), *rest, END])
    told, generation = read(resume=1, logits="full", embeddings=[-1])
    assert list(script.requests[1].generated_token_ids) == [0]
    assert [step.index for step in told] == [0, 1, 2, 3]
    assert [step.embedding[0, 0] for step in told] == [0, 1, 2, 3]
    assert all(step.logits.tobytes() == row for step in told)
    assert generation.text == " 0 1 2 3"


def test_a_server_that_begins_at_the_beginning_is_followed(script, read):
    """As one does that does not know the field: what it tells again is passed over."""
    serve(script, [start(), *steps(3), UNAVAILABLE], [start(), *steps(5), END])
    told, whole = read(resume=1)
    assert [step.index for step in told] == [0, 1, 2, 3, 4]
    assert whole.text == " 0 1 2 3 4"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"weights_sha256": "b"}, "weights_sha256='b'"),
        ({}, {"dtype": "bfloat16"}, "bfloat16"),
        ({}, {"batch_invariant": False}, "batch_invariant=False"),
        ({"batch_invariant": False}, {"batch_invariant": False}, "the same bits twice"),
    ],
)
def test_other_numbers_do_not_go_on(script, read, first, second, message):
    serve(script, [start(**first), *steps(3), UNAVAILABLE], [start(**second), *steps(3, 2), END])
    with pytest.raises(NotResumable, match=message) as caught:
        read(resume=3)
    assert caught.value.index == 3
    assert len(script.requests) == (1 if first else 2)


def test_another_token_does_not_go_on(script, read):
    other = pb.GenerateResponse(step=pb.GenerateStep(index=2, token_id=5))
    serve(script, [start(), *steps(3), UNAVAILABLE], [start(), other, END])
    with pytest.raises(NotResumable, match="token 5 comes after 2"):
        read(resume=3)


@pytest.mark.parametrize("resume", [0, 1, 2])
def test_a_stream_that_breaks_too_often_is_broken(script, read, resume):
    serve(script, *([start(), *steps(3), UNAVAILABLE] for _ in range(5)))
    with pytest.raises(StreamBroken, match="gone") as caught:
        read(resume=resume)
    assert caught.value.index == 3
    assert len(script.requests) == 1 + resume


def test_what_a_server_refuses_is_not_asked_again(script, read):
    serve(script, [grpc.StatusCode.INVALID_ARGUMENT])
    with pytest.raises(InvalidArgument):
        read(resume=3)
    assert len(script.requests) == 1


def test_a_request_that_makes_servers_fault_is_not_carried_on(script, read):
    """INTERNAL from a proxy is a stream that broke; with a reason it is the server's own word."""

    def fault(request, context):
        yield from (start(), *steps(3))
        status = status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0])
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="INTERNAL"))
        details = ("grpc-status-details-bin", status.SerializeToString())
        context.set_trailing_metadata((details,))
        context.abort(grpc.StatusCode.INTERNAL, "a fault")

    script.generate = fault
    with pytest.raises((Internal, StreamBroken), match="a fault"):
        read(resume=3)
    assert len(script.requests) == 1


def test_the_timeout_is_that_of_the_whole(script, read):
    deadlines = []

    def generate(request, context):
        deadlines.append(context.time_remaining())
        yield from (start(), *steps(3))
        if len(deadlines) < 3:
            context.abort(UNAVAILABLE, "gone")
        yield END

    script.generate = generate
    read(resume=2, timeout=8.0)
    # Less by the pauses, 0.3 s, at least; gRPC sends a deadline within 3%.
    assert deadlines[2] < deadlines[0] - 0.15


def test_several_continuations_are_not_resumed(script, read):
    with pytest.raises(ValueError, match="n=1"):
        read(resume=1, n=2)
