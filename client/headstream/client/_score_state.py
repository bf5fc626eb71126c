"""A Score stream put together: events in, one result per text out. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstream.client import _replies, _status
from headstream.client._results import TextScores, TopLogits
from headstream.client._tensors import byte_length, to_array
from headstream.v1 import logits_service_pb2 as pb

if TYPE_CHECKING:
    from headstream.client._results import Array


class ScoreState:
    """Fed with the events of a stream, gives the results when the end event has come."""

    def __init__(self) -> None:
        self._start: pb.ScoreStart | None = None
        self._end: pb.ScoreEnd | None = None
        self._texts: list[_Text] = []

    @property
    def reached(self) -> int | None:
        """Positions that have come, over all texts; None while the stream has not begun."""
        if self._start is None:
            return None
        return sum(text.num_scored for text in self._texts)

    def feed(self, event: pb.ScoreResponse) -> None:
        """Take in one event."""
        match event.WhichOneof("event"):
            case "start":
                self._start = event.start
                self._texts = [_Text(item) for item in event.start.inputs]
            case "positions":
                self._texts[event.positions.input].add(event.positions)
            case "chunk":
                self._texts[event.chunk.input].add_chunk(event.chunk)
            case "summary":
                self._texts[event.summary.input].summary = event.summary
            case "end":
                self._end = event.end
            case None:  # an event of a newer contract
                pass

    def results(self) -> list[TextScores]:
        """The scores of every text, in the order asked.

        Raises:
            StreamBroken: The end event, or positions, have not come.
        """
        start, end = self._start, self._end
        if start is None or end is None or not all(text.complete for text in self._texts):
            raise _status.unfinished(self.reached or 0)
        return [text.result(start, end) for text in self._texts]


class _Text:
    """What has come of one text."""

    def __init__(self, item: pb.ScoreInput) -> None:
        count = item.num_tokens - 1  # positions scored
        self.summary: pb.ScoreSummary | None = None
        self.num_scored = 0
        self._token_ids = np.full(item.num_tokens, item.first_token_id, dtype=np.int64)  # [n]
        self._logprobs = np.empty(count, dtype=np.float32)
        self._ranks = np.empty(count, dtype=np.int64)
        self._entropies = np.empty(count, dtype=np.float32)
        self._logits: Array | None = None  # [n - 1, k] or [n - 1, V]
        self._logits_ids: Array | None = None  # int64 [n - 1, k]
        self._open: pb.ScorePositions | None = None  # whose logits come in chunks
        self._data = bytearray()
        self._chunks = 0  # still to come

    @property
    def complete(self) -> bool:
        """Whether nothing more is to come."""
        whole = self.num_scored == len(self._logprobs) and not self._chunks
        return whole and self.summary is not None

    def add(self, positions: pb.ScorePositions) -> None:
        count = len(positions.token_ids)
        part = slice(positions.start - 1, positions.start - 1 + count)
        self._token_ids[positions.start : positions.start + count] = positions.token_ids
        self._logprobs[part] = positions.logprobs
        self._ranks[part] = positions.ranks
        self._entropies[part] = positions.entropies
        self.num_scored += count
        if positions.chunks:
            self._open = positions
            self._chunks = positions.chunks
            self._data = bytearray(byte_length(positions.logits.values))
        elif positions.HasField("logits"):
            self._add_logits(positions, to_array(positions.logits.values))

    def add_chunk(self, chunk: pb.ScoreChunk) -> None:
        assert self._open is not None, "a chunk came before its positions"
        self._data[chunk.offset : chunk.offset + len(chunk.data)] = chunk.data
        self._chunks -= 1
        if not self._chunks:
            self._add_logits(self._open, to_array(self._open.logits.values, self._data))

    def _add_logits(self, positions: pb.ScorePositions, values: Array) -> None:
        """Keep the logits of some positions: [n, k] or [n, V]."""
        count, width = values.shape
        part = slice(positions.start - 1, positions.start - 1 + count)
        if self._logits is None:
            self._logits = np.empty((len(self._logprobs), width), dtype=values.dtype)
        self._logits[part] = values
        if positions.logits.token_ids:
            if self._logits_ids is None:
                self._logits_ids = np.empty(self._logits.shape, dtype=np.int64)
            self._logits_ids[part] = np.reshape(positions.logits.token_ids, (count, width))

    def result(self, start: pb.ScoreStart, end: pb.ScoreEnd) -> TextScores:
        assert self.summary is not None, "asked for before it was complete"
        logits: Array | TopLogits | None = self._logits
        if self._logits is not None and self._logits_ids is not None:
            logits = TopLogits(self._logits_ids, self._logits)
        return TextScores(
            token_ids=self._token_ids,
            logprobs=self._logprobs,
            ranks=self._ranks,
            entropies=self._entropies,
            logits=logits,
            total_logprob=self.summary.logprob,
            perplexity=self.summary.perplexity,
            usage=_replies.usage(end.usage),
            timings=_replies.timings(end.timings),
            fingerprint=_replies.fingerprint(start.fingerprint),
            request_id=start.request_id,
        )
