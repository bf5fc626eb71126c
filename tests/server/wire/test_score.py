"""Score requests at the edges of their limits, windows, and messages of positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import front_values
from front_values import float_tensor
from headstream.server.engine.stream import ScoresEvent, WireTensor
from headstream.server.errors import InvalidRequest
from headstream.server.wire.score import (
    Window,
    check_scored,
    cut_windows,
    parse_score,
    position_events,
    to_summary,
)
from headstream.server.wire.tensors import CHUNK_BYTES
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import types_pb2

LIMITS = front_values.make_limits(d_vocab=400, max_inputs=3, max_top_k=5, max_model_len=10)
HI = types_pb2.Input(text="hi")


def parse(**fields: Any) -> Any:
    fields.setdefault("inputs", [HI])
    return parse_score(pb.ScoreRequest(**fields), LIMITS)


def ids(*values: int) -> types_pb2.Input:
    return types_pb2.Input(token_ids=types_pb2.TokenIds(ids=values))


def top(count: int) -> pb.LogitsOptions:
    return pb.LogitsOptions(mode=pb.LOGITS_MODE_TOP_K, top_k=count)


@pytest.mark.parametrize(
    ("field", "fine", "wrong"),
    [
        ("inputs", {"inputs": [HI]}, {"inputs": []}),
        ("inputs", {"inputs": [HI] * 3}, {"inputs": [HI] * 4}),
        ("inputs[1]", {"inputs": [HI, HI]}, {"inputs": [HI, types_pb2.Input()]}),
        ("inputs[1].token_ids.ids[0]", {"inputs": [HI, ids(399)]}, {"inputs": [HI, ids(400)]}),
        ("window_stride", {"window_stride": 1}, {"window_stride": 0}),
        ("window_stride", {"window_stride": 9}, {"window_stride": 10}),
        ("logits.top_k", {"logits": top(5)}, {"logits": top(6)}),
    ],
)
def test_edges(field: str, fine: dict[str, Any], wrong: dict[str, Any]) -> None:
    parse(**fine)
    with pytest.raises(InvalidRequest) as caught:
        parse(**wrong)
    assert caught.value.field == field


def test_bytes_are_those_of_all_scored_positions() -> None:
    full = pb.LogitsOptions(mode=pb.LOGITS_MODE_FULL)
    assert parse(logits=full).tensor_bytes([3, 5], LIMITS) == (2 + 4) * 400 * 4
    assert parse(logits=top(5)).tensor_bytes([3, 5], LIMITS) == (2 + 4) * 5 * 4
    assert parse().tensor_bytes([3, 5], LIMITS) == 0


@pytest.mark.parametrize("stride", [1, 3, 9])
@pytest.mark.parametrize("length", [2, 9, 10, 11, 12, 13, 19, 20, 50])
def test_windows_score_every_token_but_the_first_once(stride: int, length: int) -> None:
    windows = list(cut_windows(length, stride, 10))
    scored = [at for window in windows for at in range(window.first, window.end)]
    assert scored == list(range(1, length))
    assert [window.begin for window in windows] == [stride * i for i in range(len(windows))]
    for window in windows[:-1]:
        assert window.end - window.begin == 10
    for window in windows[1:]:
        assert window.first - window.begin == 10 - stride, "what it sees before"
        assert window.end - window.first <= stride


def test_a_text_that_fits_is_one_window() -> None:
    assert [*cut_windows(10, None, 10)] == [*cut_windows(10, 3, 10)] == [Window(0, 10, 1)]
    check_scored("inputs[2]", 11, 3, LIMITS)
    with pytest.raises(InvalidRequest, match=r"inputs\[2\]: has 11 tokens; the model takes 10"):
        check_scored("inputs[2]", 11, None, LIMITS)


def test_windows_are_made_when_they_are_wanted() -> None:
    """A list of so many would fill the memory."""
    windows = cut_windows(10**15, 1, 10)
    assert [next(windows) for _ in range(2)] == [Window(0, 10, 1), Window(1, 11, 10)]


@pytest.mark.parametrize("length", [0, 1])
def test_one_token_has_nothing_to_score(length: int) -> None:
    with pytest.raises(InvalidRequest, match="at least 2"):
        check_scored("inputs[0]", length, 3, LIMITS)


def make_scores(count: int, logits: WireTensor | None = None, ids: bytes = b"") -> ScoresEvent:
    values = np.stack([-np.arange(count), np.arange(count), np.arange(count) / 2])
    return ScoresEvent(4, float_tensor(values), logits, ids)


def messages(scores: ScoresEvent) -> list[pb.ScoreResponse]:
    """Of a window that begins at token 100 of a text whose token i is i."""
    return list(position_events(2, Window(100, 600, 104), range(1000), scores))


def test_scores_without_rows_are_one_message() -> None:
    [reply] = messages(make_scores(5))
    positions = reply.positions
    assert (positions.input, positions.start) == (2, 104)
    assert list(positions.token_ids) == [104, 105, 106, 107, 108]
    assert list(positions.ranks) == [0, 1, 2, 3, 4]
    assert list(positions.logprobs) == [0, -1, -2, -3, -4]
    assert list(positions.entropies) == [0, 0.5, 1, 1.5, 2]
    assert not positions.HasField("logits")


def test_rows_are_cut_at_a_mebibyte() -> None:
    width = CHUNK_BYTES // 4 // 3  # three rows to a message
    rows = np.arange(7 * width).reshape(7, width)
    ids = np.arange(7 * width, dtype="<i4")
    replies = messages(make_scores(7, float_tensor(rows), ids.tobytes()))
    assert [reply.positions.start for reply in replies] == [104, 107, 110]
    assert [list(reply.positions.logits.values.shape) for reply in replies] == [
        [3, width],
        [3, width],
        [1, width],
    ]
    data = b"".join(reply.positions.logits.values.data for reply in replies)
    assert data == float_tensor(rows).data
    assert [i for reply in replies for i in reply.positions.logits.token_ids] == ids.tolist()
    assert [list(reply.positions.ranks) for reply in replies] == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(reply.positions.chunks == 0 for reply in replies)


@pytest.mark.parametrize(("extra", "chunks"), [(0, 0), (1, 2)])
def test_a_row_over_a_mebibyte_comes_in_chunks(extra: int, chunks: int) -> None:
    rows = np.arange(2 * (CHUNK_BYTES // 4 + extra)).reshape(2, -1)
    replies = messages(make_scores(2, float_tensor(rows)))
    kinds = [reply.WhichOneof("event") for reply in replies]
    assert kinds == (["positions"] + ["chunk"] * chunks) * 2
    data = b"".join(
        reply.chunk.data if reply.HasField("chunk") else reply.positions.logits.values.data
        for reply in replies
    )
    assert data == float_tensor(rows).data
    assert {reply.chunk.input for reply in replies if reply.HasField("chunk")} <= {2}
    assert all(reply.ByteSize() < CHUNK_BYTES + 1000 for reply in replies)


def test_a_summary_does_not_depend_on_the_parts() -> None:
    values = np.random.default_rng(0).normal(-3, 2, 5000).astype(np.float32)
    whole = to_summary(1, [values])
    parts = to_summary(1, [values[:7], values[7:4000], values[4000:]])
    assert whole == parts
    assert whole.scored_tokens == 5000
    assert whole.logprob == math.fsum(values.tolist())
    assert whole.perplexity == pytest.approx(float(np.exp(-values.astype(np.float64).mean())))


def test_a_perplexity_too_large_for_a_number_is_infinite() -> None:
    assert to_summary(0, [np.array([-1000.0], np.float32)]).perplexity == math.inf
