"""One continuation of a prompt: events in, steps out. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from headstream.client import _status
from headstream.client._results import Step, TopLogits
from headstream.client._tensors import byte_length, to_array
from headstream.v1 import logits_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstream.client._results import Array

FinishReason: TypeAlias = Literal["stop", "length", "dead_end"]

_FINISH_REASONS: dict[int, FinishReason] = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_DEAD_END: "dead_end",
}


class Continuation:
    """What has become known of one continuation.

    Attributes:
        index: Its number, from 0 on.
        seed: Seed in use: with it and `n=1` the same continuation comes alone.
        text: All text so far; after its last step, exactly the whole.
        finish_reason: "stop", "length", or "dead_end" where no token could come next. None until
            its end.
        stop_string: The stop string that was met; empty where there was none.
        tail: The part of `text` that came with the end, behind the text of all steps: what was
            held back because it could have been the beginning of a stop string or character.
        ended: Whether its end has come.
        reached: Index of the step that comes next.
    """

    def __init__(self, index: int, *, with_embeddings: bool) -> None:
        self.index = index
        self.seed: int | None = None
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.stop_string = ""
        self.tail = ""
        self.ended = False
        self.reached = 0
        self._with_embeddings = with_embeddings
        self._open: dict[int, _OpenStep] = {}  # by index, oldest first
        self._token_ids: list[int] = []  # of the steps that are complete

    def feed(self, event: pb.GenerateResponse) -> Iterator[Step]:
        """Take in one event; the steps that it completes."""
        match event.WhichOneof("event"):
            case "step":
                self._begin(event.step)
            case "chunk" if event.chunk.index in self._open:
                self._open[event.chunk.index].add(event.chunk)
            case "embedding" if event.embedding.index in self._open:
                vectors = to_array(event.embedding.vectors)
                self._open[event.embedding.index].embedding = vectors
            case "end":
                self._end(event.end)
            case _:  # a part of a step that is told again, or an event of a newer contract
                return
        yield from self._release()

    def rewind(self) -> list[int]:
        """Forget what is incomplete, for another stream to tell; the tokens to begin it with.

        These are all but the last that is complete: that one comes again.
        """
        told = len(self.text) - sum(len(step.message.text) for step in self._open.values())
        self.text = self.text[:told]
        self._open.clear()
        self.reached = len(self._token_ids)
        return self._token_ids[:-1]

    def _begin(self, step: pb.GenerateStep) -> None:
        """A step, or one that is complete and told again.

        Raises:
            NotResumable: It is another token.
        """
        if step.index < len(self._token_ids):
            if step.token_id != (told := self._token_ids[step.index]):
                raise _status.not_resumable(f"token {step.token_id} comes after {told}", step.index)
            return
        self._open[step.index] = _OpenStep(step)
        self.reached = step.index + 1
        self.text += step.text

    def _end(self, end: pb.GenerateEnd) -> None:
        self.ended = True
        self.finish_reason = _FINISH_REASONS.get(end.finish_reason)
        self.stop_string = end.stop_string
        self.tail = end.text
        self.text += end.text

    def _release(self) -> Iterator[Step]:
        while self._open:
            index, step = next(iter(self._open.items()))
            waits = self._with_embeddings and step.embedding is None
            if step.chunks or (waits and not self.ended):
                return
            self._token_ids.append(step.message.token_id)
            yield step.close(self.index)
            del self._open[index]


@dataclass(slots=True)
class _OpenStep:
    """A step some of whose parts may still be to come."""

    message: pb.GenerateStep
    chunks: int  # still to come
    data: bytearray  # of a row that comes in chunks
    embedding: Array | None  # [L, d]

    def __init__(self, message: pb.GenerateStep) -> None:
        self.message = message
        self.chunks = message.chunks
        self.data = bytearray(byte_length(message.logits.values) if message.chunks else 0)
        self.embedding = None

    def add(self, chunk: pb.GenerateChunk) -> None:
        self.data[chunk.offset : chunk.offset + len(chunk.data)] = chunk.data
        self.chunks -= 1

    def close(self, continuation: int) -> Step:
        message = self.message
        return Step(
            index=message.index,
            token_id=message.token_id,
            text=message.text,
            logprob=message.logprob if message.HasField("logprob") else None,
            logits=self._logits() if message.HasField("logits") else None,
            embedding=self.embedding,
            continuation=continuation,
        )

    def _logits(self) -> Array | TopLogits:
        row = self.message.logits
        values = to_array(row.values, self.data or None)  # [V] or [k]
        if not row.token_ids:
            return values
        return TopLogits(np.array(row.token_ids, dtype=np.int64), values)
