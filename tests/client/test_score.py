"""`score` of both clients, and the streams it is made from."""

from typing import Any

import numpy as np
import pytest

from client_messages import SCORE_END, score_events, tensor
from headstream.client import (
    AsyncClient,
    InvalidArgument,
    StreamBroken,
    TextScores,
    TopLogits,
    _requests,
)
from headstream.client._score_state import ScoreState
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import tensor_pb2

IDS = [7, 8, 9, 10, 11]


def feed(*events: pb.ScoreResponse) -> ScoreState:
    state = ScoreState()
    for event in events:
        state.feed(event)
    return state


def test_one_text_has_one_result(script, client):
    script.score = lambda request, context: iter([*score_events(IDS), SCORE_END])
    scores = client.score("a b c", logits="top", top_logits=3, window_stride=4)
    assert scores.token_ids.tolist() == IDS
    assert scores.logprobs.tolist() == [-1, -2, -3, -4]
    assert scores.ranks.tolist() == [1, 2, 3, 4]
    assert scores.entropies.tolist() == [0.5, 1, 1.5, 2]
    assert [array.dtype for array in (scores.token_ids, scores.logprobs, scores.ranks)] == [
        np.int64,
        np.float32,
        np.int64,
    ]
    assert (scores.total_logprob, scores.perplexity, len(scores)) == (-3.5, 7.25, 5)
    assert scores.logits is None
    assert (scores.request_id, scores.usage.input_tokens) == ("r3", 9)
    (request,) = script.requests
    assert [item.text for item in request.inputs] == ["a b c"]
    assert (request.logits.top_k, request.window_stride) == (3, 4)


def test_a_list_has_a_list(script, client):
    script.score = lambda request, context: iter([*score_events(IDS, [1, 2]), SCORE_END])
    one, other = client.score(["a", [1, 2]], model="m", skip_special_tokens=True)
    assert (one.token_ids.tolist(), other.token_ids.tolist()) == (IDS, [1, 2])
    assert other.logprobs.tolist() == [-1]
    (request,) = script.requests
    assert [item.WhichOneof("content") for item in request.inputs] == ["text", "token_ids"]
    assert request.inputs[0].skip_special_tokens
    assert not request.HasField("window_stride")


async def test_the_async_client_does_the_same(script):
    script.score = lambda request, context: iter([*score_events(IDS), SCORE_END])
    async with AsyncClient(script.address, stream_timeout=60) as client:
        scores = await client.score(IDS)
        (again,) = await client.score([IDS])
    assert scores.logprobs.tolist() == again.logprobs.tolist() == [-1, -2, -3, -4]


@pytest.mark.parametrize(
    ("text", "single"),
    [
        ("abc", True),
        ("", True),
        ([1, 2], True),
        (np.array([1, 2]), True),
        (["a"], False),
        ([[1, 2]], False),
        ([np.array([1, 2])], False),
        ([], False),
    ],
)
def test_a_text_is_told_from_a_list_of_texts(text: Any, single: bool) -> None:
    assert _requests.is_single(text) is single


def test_unknown_words_are_refused_before_any_call(client, script):
    with pytest.raises(ValueError, match="neither none, top, full"):
        client.score("a", logits="all")
    assert script.requests == []


def values(scores: TextScores) -> Any:
    assert isinstance(scores.logits, np.ndarray)
    return scores.logits.tolist()


def rows(values: Any, ids: Any = ()) -> pb.Logits:
    return pb.Logits(values=tensor(values), token_ids=ids)


def test_rows_are_put_together():
    state = feed(*score_events(IDS, logits=rows([[1, 2, 3], [4, 5, 6]])), SCORE_END)
    (scores,) = state.results()
    assert values(scores) == [[1, 2, 3], [4, 5, 6]] * 2
    top = feed(*score_events(IDS, logits=rows([[2, 1], [4, 3]], [9, 8, 7, 6])), SCORE_END)
    (scores,) = top.results()
    assert isinstance(scores.logits, TopLogits)
    assert scores.logits.token_ids.tolist() == [[9, 8], [7, 6]] * 2
    assert scores.logits.values.tolist() == [[2, 1], [4, 3]] * 2


def chunked(index: int) -> list[pb.ScoreResponse]:
    """The one scored position of a text of two tokens, its row in two chunks, the second first."""
    whole = tensor([[index, 1, 2, 3]])
    empty = tensor_pb2.Tensor(dtype=whole.dtype, shape=whole.shape)
    positions = pb.ScorePositions(
        input=index, start=1, token_ids=[5], logprobs=[-1], ranks=[0], entropies=[1]
    )
    positions.logits.CopyFrom(pb.Logits(values=empty))
    positions.chunks = 2
    return [
        pb.ScoreResponse(positions=positions),
        pb.ScoreResponse(chunk=pb.ScoreChunk(input=index, offset=8, data=whole.data[8:])),
        pb.ScoreResponse(chunk=pb.ScoreChunk(input=index, offset=0, data=whole.data[:8])),
    ]


def test_chunks_of_several_texts_may_alternate():
    start, *_ = score_events([4, 5], [4, 5])
    summaries = [pb.ScoreResponse(summary=pb.ScoreSummary(input=i)) for i in (1, 0)]
    both = [event for pair in zip(chunked(0), chunked(1), strict=True) for event in pair]
    state = feed(start, *both, *summaries, SCORE_END)
    assert [values(scores) for scores in state.results()] == [[[0, 1, 2, 3]], [[1, 1, 2, 3]]]


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_what_did_not_come_is_missed(missing: int) -> None:
    """Positions, a summary, the end: without any of them the stream is broken."""
    events = [*score_events(IDS), SCORE_END]
    assert len(events) == 5
    feed(*events).results()
    del events[missing + 1]
    with pytest.raises(StreamBroken) as caught:
        feed(*events).results()
    assert caught.value.index == (2 if missing == 1 else 4)


def test_a_missing_chunk_is_missed():
    start, *_ = score_events([4, 5])
    summary = pb.ScoreResponse(summary=pb.ScoreSummary())
    for count in (1, 2):
        with pytest.raises(StreamBroken):
            feed(start, *chunked(0)[:count], summary, SCORE_END).results()


def test_a_stream_that_dies_says_how_far_it_was(script, client):
    def dies(request, context):
        import grpc

        yield from list(score_events(IDS))[:2]
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    script.score = dies
    with pytest.raises(StreamBroken) as caught:
        client.score("a")
    assert caught.value.index == 2


def test_a_refusal_before_the_stream_is_itself(script, client):
    def refuse(request, context):
        import grpc

        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "inputs[0]: is empty")

    script.score = refuse
    with pytest.raises(InvalidArgument, match="is empty"):
        client.score("")
