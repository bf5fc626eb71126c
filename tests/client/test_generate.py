"""`generate` of the sync client: its stream, how it ends, and how it breaks."""

import time
from itertools import chain

import grpc
import pytest

from client_messages import END, START, continuations, ends, steps
from headstream.client import Aborted, StreamBroken


def test_generate_streams_steps_and_then_knows_the_whole(script, client):
    script.generate = lambda request, context: iter([START, *steps(3), END])
    generation = client.generate("a", logits="top", top_logits=4, seed=3, stop=["!", "?"])
    assert [step.text for step in generation] == [" 0", " 1", " 2"]
    assert generation.text == " 0 1 2"
    assert (generation.finish_reason, generation.stop_string) == ("stop", "!")
    assert (generation.request_id, generation.seed) == ("r1", 3)
    (request,) = script.requests
    assert (request.logits.top_k, request.sampling.seed) == (4, 3)
    assert list(request.stop.strings) == ["!", "?"]
    assert list(generation) == []
    assert script.ended.wait(20)
    assert not script.was_cancelled


def test_leaving_the_loop_ends_the_call_on_the_server(script, client):
    def endless(request, context):
        yield START
        index = 0
        while context.is_active():
            yield from steps(1, index)
            index += 1
            time.sleep(0.01)

    script.generate = endless
    for step in client.generate("a"):
        if step.index == 2:
            break
    assert script.ended.wait(20)
    assert script.was_cancelled


def test_close_and_with_end_the_call_while_a_name_holds_it(script, client):
    def endless(request, context):
        yield from (START, *steps(1))
        while context.is_active():
            time.sleep(0.01)

    script.generate = endless
    with client.generate("a") as generation:
        assert next(generation).index == 0
        assert not script.ended.is_set()
    assert script.ended.wait(20)
    assert script.was_cancelled
    assert list(generation) == []


def test_a_stream_without_its_end_is_broken_where_it_stopped(script, client):
    script.generate = lambda request, context: iter([START, *steps(2)])
    read = []
    with pytest.raises(StreamBroken, match="index 2") as caught:
        read.extend(client.generate("a"))
    assert caught.value.index == 2


def test_continuations_come_side_by_side_and_are_told_apart(script, client):
    script.generate = lambda request, context: chain(continuations(2, 1, 3), ends(1, 0, 2))
    generation = client.generate("a", n=3)
    assert [(step.continuation, step.index) for step in generation] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (0, 1),
        (2, 1),
        (2, 2),
    ]
    assert script.requests[0].sampling.n == 3
    assert [each.text for each in generation.continuations] == [" 0 1", " 0", " 0 1 2"]
    assert [each.seed for each in generation.continuations] == [3, 4, 5]
    assert [each.stop_string for each in generation.continuations] == ["!"] * 3
    assert client.generate("a", n=3).read_texts() == [" 0 1", " 0", " 0 1 2"]


def test_a_stream_without_all_ends_is_broken_where_the_least_advanced_stopped(script, client):
    script.generate = lambda request, context: chain(continuations(4, 1, 3), ends(1))
    with pytest.raises(StreamBroken) as caught:
        client.generate("a", n=3).read_texts()
    assert caught.value.index == 3


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, StreamBroken),
        (grpc.StatusCode.INTERNAL, StreamBroken),
        (grpc.StatusCode.UNKNOWN, StreamBroken),
        (grpc.StatusCode.CANCELLED, StreamBroken),  # by whoever is in between
        (grpc.StatusCode.ABORTED, Aborted),
    ],
)
def test_a_death_in_the_middle_is_a_broken_stream_whatever_its_status(script, client, code, kind):
    def dies(request, context):
        yield from (START, *steps(2))
        context.abort(code, "gone")

    script.generate = dies
    with pytest.raises(StreamBroken) as caught:
        list(client.generate("a"))
    assert type(caught.value) is kind
    assert (caught.value.index, caught.value.code) == (2, code.name)
