"""What is known of a running continuation: events in, steps out. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from headstream.client import _replies
from headstream.client._results import Fingerprint, Step, Timings, TopLogits, Usage
from headstream.client._tensors import byte_length, to_array
from headstream.v1 import logits_service_pb2 as pb

if TYPE_CHECKING:
    from headstream.client._results import Array

_FINISH_REASONS: dict[int, Literal["stop", "length", "dead_end"]] = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_DEAD_END: "dead_end",
}


class GenerationState:
    """A continuation and what has become known of it.

    A step is given out when all of it has arrived. Where embeddings were asked for, that is one
    step later: a token's vectors exist only after the model has read the token. The last steps
    come with the end, where a vector that was never computed is None.

    Attributes:
        request_id: The server's id of the request. Known from the first step on, as are:
        fingerprint: Which numbers these are.
        prompt_ids: The prompt's token ids.
        seed: Seed in use, for repeating a sampled continuation.
        text: All text so far; after the last step, exactly the whole continuation.
        finish_reason: "stop", "length", or "dead_end" where no token could come next. None until
            the end, as are:
        usage: What the request used.
        timings: Where its time went.
        stop_string: The stop string that was met; empty where there was none.
        tail: The part of `text` that came with the end, behind the text of all steps: what was
            held back because it could have been the beginning of a stop string or character.
    """

    def __init__(self, *, with_embeddings: bool) -> None:
        self.request_id = ""
        self.fingerprint: Fingerprint | None = None
        self.prompt_ids: list[int] = []
        self.seed: int | None = None
        self.text = ""
        self.finish_reason: Literal["stop", "length", "dead_end"] | None = None
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self.stop_string = ""
        self.tail = ""
        self._with_embeddings = with_embeddings
        self._open: dict[int, _OpenStep] = {}  # by index, oldest first
        self._ready: deque[Step] = deque()
        self._started = False
        self._ended = False
        self._index = 0  # of the step that comes next

    def feed(self, event: pb.GenerateResponse) -> None:
        """Take in one event; steps that it completes can then be taken out."""
        match event.WhichOneof("event"):
            case "start":
                self._start(event.start)
            case "step":
                self._open[event.step.index] = _OpenStep(event.step)
                self._index = event.step.index + 1
                self.text += event.step.text
            case "chunk":
                self._open[event.chunk.index].add(event.chunk)
            case "embedding":
                vectors = to_array(event.embedding.vectors)
                self._open[event.embedding.index].embedding = vectors
            case "end":
                self._end(event.end)
            case None:  # an event of a newer contract
                return
        self._release()

    def take(self) -> Step | None:
        """The oldest complete step that was not taken yet, if there is one."""
        return self._ready.popleft() if self._ready else None

    @property
    def ended(self) -> bool:
        """Whether the end event has come."""
        return self._ended

    @property
    def reached(self) -> int | None:
        """Index of the step that would come next; None while the stream has not begun."""
        return self._index if self._started else None

    def _start(self, start: pb.GenerateStart) -> None:
        self._started = True
        self.request_id = start.request_id
        self.fingerprint = _replies.fingerprint(start.fingerprint)
        self.prompt_ids = list(start.prompt.ids)
        self.seed = start.seed

    def _end(self, end: pb.GenerateEnd) -> None:
        self._ended = True
        self.finish_reason = _FINISH_REASONS.get(end.finish_reason)
        self.stop_string = end.stop_string
        self.tail = end.text
        self.text += end.text
        self.usage = _replies.usage(end.usage)
        self.timings = _replies.timings(end.timings)

    def _release(self) -> None:
        while self._open:
            index, step = next(iter(self._open.items()))
            waits = self._with_embeddings and step.embedding is None
            if step.chunks or (waits and not self._ended):
                return
            self._ready.append(step.close())
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

    def close(self) -> Step:
        message = self.message
        return Step(
            index=message.index,
            token_id=message.token_id,
            text=message.text,
            logprob=message.logprob if message.HasField("logprob") else None,
            logits=self._logits() if message.HasField("logits") else None,
            embedding=self.embedding,
        )

    def _logits(self) -> Array | TopLogits:
        row = self.message.logits
        values = to_array(row.values, self.data or None)  # [V] or [k]
        if not row.token_ids:
            return values
        return TopLogits(np.array(row.token_ids, dtype=np.int64), values)
