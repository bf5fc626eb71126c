"""Score requests, their windows, and the events of a scoring."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstream.model.outputs import LogitsSpec
from headstream.server.engine.stream import ScoresEvent, WireTensor
from headstream.server.errors import InvalidRequest
from headstream.server.limits import Limits
from headstream.server.wire.fields import check_count, check_int
from headstream.server.wire.inputs import ParsedInput, check_length, parse_input
from headstream.server.wire.logits import parse_logits, put_logits
from headstream.server.wire.tensors import (
    ITEM_BYTES,
    cut_bytes,
    cut_rows,
)
from headstream.v1 import logits_service_pb2 as pb

_LARGEST_EXPONENT = 709.0  # exp of more is no float64


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """A checked request."""

    inputs: tuple[ParsedInput, ...]
    logits: LogitsSpec
    window_stride: int | None
    max_reply_bytes: int | None  # the caller's own limit

    def tensor_bytes(self, lengths: Iterable[int], limits: Limits) -> int:
        """Bytes of logits sent with texts of so many tokens."""
        row = self.logits.row_values(limits.d_vocab) * ITEM_BYTES[self.logits.dtype]
        return sum(length - 1 for length in lengths) * row


@dataclass(frozen=True, slots=True)
class Window:
    """The tokens [begin, end) of a text are read, and those from ``first`` on are scored."""

    begin: int
    end: int
    first: int


def parse_score(request: pb.ScoreRequest, limits: Limits) -> ScoreCall:
    """The request, if every field keeps its limits."""
    check_count("inputs", request.inputs, 1, limits.max_inputs)
    stride = request.window_stride if request.HasField("window_stride") else None
    if stride is not None:
        check_int("window_stride", stride, 1, limits.max_model_len - 1)
    return ScoreCall(
        inputs=tuple(
            parse_input(f"inputs[{i}]", item, limits) for i, item in enumerate(request.inputs)
        ),
        logits=parse_logits("logits", request.logits, limits),
        window_stride=stride,
        max_reply_bytes=request.max_reply_bytes if request.HasField("max_reply_bytes") else None,
    )


def check_scored(field: str, num_tokens: int, stride: int | None, limits: Limits) -> None:
    """Refuse a text that has nothing to score, or that is too long to be read at once."""
    if num_tokens < 2:
        raise InvalidRequest(field, f"has {num_tokens} tokens; the first has no score: at least 2")
    if stride is None:
        check_length(field, num_tokens, limits)


def cut_windows(num_tokens: int, stride: int | None, context: int) -> Iterator[Window]:
    """The windows in which a text is scored: one, where it fits the model's context.

    As in the strided perplexity of the ``transformers`` documentation: windows of the context's
    length begin every ``stride`` tokens until one reaches the end, and each scores the tokens that
    none before it held. They are made one by one: there may be millions.
    """
    scored = 1  # tokens before this one are done: the first has no score
    for begin in range(0, num_tokens, stride or num_tokens):
        end = min(begin + context, num_tokens)
        yield Window(begin, end, scored)
        scored = end
        if end == num_tokens:
            break


def position_events(
    index: int, window: Window, token_ids: Sequence[int], scores: ScoresEvent
) -> Iterator[pb.ScoreResponse]:
    """The positions of one event of a window, each message with at most 1 MiB of logits.

    Args:
        index: Of the input.
        window: Whose sequence gave the scores.
        token_ids: Of the whole input.
        scores: Counted from the beginning of the window.
    """
    logprobs, ranks, entropies = score_values(scores)
    start = window.begin + scores.start
    row_ids = _row_ids(scores)
    for first, logits in _cut_logits(scores):
        count = len(logprobs) if logits is None else logits.shape[0]
        part = slice(first, first + count)
        reply = pb.ScoreResponse()
        positions = reply.positions
        positions.input, positions.start = index, start + first
        positions.token_ids.extend(token_ids[start + first : start + first + count])
        positions.logprobs.extend(logprobs[part].tolist())
        positions.ranks.extend(ranks[part].astype(np.int64).tolist())
        positions.entropies.extend(entropies[part].tolist())
        if logits is not None:
            ids = row_ids[part].ravel().tolist()
            positions.chunks = put_logits(positions.logits, logits, ids)
        yield reply
        if positions.chunks and logits is not None:
            for offset, data in cut_bytes(logits.data):
                reply = pb.ScoreResponse()
                reply.chunk.input, reply.chunk.offset, reply.chunk.data = index, offset, data
                yield reply


def score_values(scores: ScoresEvent) -> NDArray[np.float32]:
    """Log-probabilities, ranks and entropies: [3, n]."""
    return np.frombuffer(scores.values.data, "<f4").reshape(scores.values.shape)


def to_summary(index: int, logprobs: Sequence[NDArray[np.float32]]) -> pb.ScoreSummary:
    """The totals of one input; the sum is rounded once, so it does not depend on the parts."""
    values = np.concatenate(logprobs)
    total = math.fsum(values.tolist())
    exponent = -total / len(values)
    return pb.ScoreSummary(
        input=index,
        logprob=total,
        perplexity=math.inf if exponent > _LARGEST_EXPONENT else math.exp(exponent),
        scored_tokens=len(values),
    )


def _cut_logits(scores: ScoresEvent) -> Iterator[tuple[int, WireTensor | None]]:
    """Index of the first row and the logits of each message."""
    if scores.logits is None:
        yield 0, None
    else:
        yield from cut_rows(scores.logits)


def _row_ids(scores: ScoresEvent) -> NDArray[np.int32]:
    """Token ids of the logits, [n, k]; [n, 0] where they need none."""
    return np.frombuffer(scores.logits_ids, "<i4").reshape(scores.values.shape[1], -1)
