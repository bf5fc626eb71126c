"""What is known of a running call of `generate`: events in, steps out. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from headstream.client import _replies, _status
from headstream.client._continuation import Continuation
from headstream.client._results import Fingerprint, Step, Timings, Usage

if TYPE_CHECKING:
    from headstream.client._continuation import FinishReason
    from headstream.v1 import logits_service_pb2 as pb


class GenerationState:
    """The continuations of a prompt and what has become known of them.

    A step is given out when all of it has arrived. Where embeddings were asked for, that is one
    step later: a token's vectors exist only after the model has read the token. The last steps
    come with the end, where a vector that was never computed is None.

    `text`, `finish_reason`, `stop_string` and `tail` are those of the first continuation.

    Attributes:
        request_id: The server's id of the request. Known from the first step on, as are:
        fingerprint: Which numbers these are.
        prompt_ids: The prompt's token ids.
        seed: Seed in use, for repeating it.
        continuations: All of them, each with its own seed and text.
        usage: What the request used; where a stream broke, the call that took it up last. None
            until the last continuation has ended, as are:
        timings: Where its time went.
    """

    def __init__(self, *, with_embeddings: bool) -> None:
        self.request_id = ""
        self.fingerprint: Fingerprint | None = None
        self.prompt_ids: list[int] = []
        self.seed: int | None = None
        self.continuations = [Continuation(0, with_embeddings=with_embeddings)]
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self._with_embeddings = with_embeddings
        self._used = Usage()
        self._ready: deque[Step] = deque()
        self._started = False

    def feed(self, event: pb.GenerateResponse) -> None:
        """Take in one event; steps that it completes can then be taken out."""
        if event.HasField("start"):
            self._start(event.start)
            return
        self._ready += self.continuations[event.continuation].feed(event)
        if event.HasField("end"):
            self._end(event.end)

    def take(self) -> Step | None:
        """The oldest complete step that was not taken yet, if there is one."""
        return self._ready.popleft() if self._ready else None

    @property
    def text(self) -> str:
        """All text so far; after the last step, exactly the whole continuation."""
        return self.continuations[0].text

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended: "stop", "length", or "dead_end" where no token could come next."""
        return self.continuations[0].finish_reason

    @property
    def stop_string(self) -> str:
        """The stop string that was met; empty where there was none."""
        return self.continuations[0].stop_string

    @property
    def tail(self) -> str:
        """The part of `text` that came with the end, behind the text of all steps."""
        return self.continuations[0].tail

    @property
    def ended(self) -> bool:
        """Whether the end of each continuation has come."""
        return all(each.ended for each in self.continuations)

    @property
    def reached(self) -> int | None:
        """Index of the step that would come next: the lowest. None while nothing has begun."""
        if not self._started:
            return None
        running = [each for each in self.continuations if not each.ended]
        return min(each.reached for each in running or self.continuations)

    def rewind(self) -> list[int]:
        """Forget what is incomplete, for another stream to tell; the tokens to begin it with."""
        return self.continuations[0].rewind()

    def _start(self, start: pb.GenerateStart) -> None:
        fingerprint = _replies.fingerprint(start.fingerprint)
        if self.fingerprint not in {None, fingerprint}:
            message = f"it is {fingerprint} that goes on, not {self.fingerprint}"
            raise _status.not_resumable(message, self.reached or 0)
        self._started = True
        self.request_id = start.request_id
        self.fingerprint = fingerprint
        self.prompt_ids = list(start.prompt.ids)
        self.seed = start.seed
        seeds = start.seeds or [start.seed]  # an older server tells the one
        self.continuations += [
            Continuation(index, with_embeddings=self._with_embeddings)
            for index in range(1, len(seeds))
        ]
        for each, seed in zip(self.continuations, seeds, strict=True):
            each.seed = seed

    def _end(self, end: pb.GenerateEnd) -> None:
        self._used += _replies.usage(end.usage)
        if self.ended:
            self.usage = self._used
            self.timings = _replies.timings(end.timings)
