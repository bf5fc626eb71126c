"""The continuations of one prompt: their events turned into replies, in one stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Unpack

from headstream.server.admission import Ticket
from headstream.server.call import Call, current_call
from headstream.server.detokenizer import Detokenizer
from headstream.server.engine.messages import FinishReason, SubmitOptions
from headstream.server.engine.stream import Event
from headstream.server.errors import InvalidRequest
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.sequence_run import read_sequence, submitted
from headstream.server.together import merge
from headstream.server.wire.generate import GenerateCall, Reply, TokenVectors, step_events
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import types_pb2

_FINISH: dict[FinishReason, pb.FinishReason.ValueType] = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "dead_end": pb.FINISH_REASON_DEAD_END,
}


def continue_prompt(
    model: LoadedModel,
    metrics: Metrics,
    tickets: Sequence[Ticket],
    parsed: GenerateCall,
    prompt: tuple[int, ...],
    **options: Unpack[SubmitOptions],
) -> AsyncGenerator[Reply]:
    """The steps of all continuations as they come, and an end for each.

    Nothing is submitted before the first is asked for; closing the generator frees everything.

    Raises:
        InvalidRequest: The continuation had ended with a stop string.
    """
    continuations = [
        Continuation(index, model, parsed, len(prompt), metrics) for index in range(parsed.n)
    ]

    async def run() -> AsyncGenerator[Reply]:
        with submitted(model, metrics, prompt, parsed.seeds[1:], **options) as streams:
            runs = [
                each.replies(read_sequence(model, metrics, ticket, stream))
                for each, ticket, stream in zip(continuations, tickets, streams, strict=True)
            ]
            async with aclosing(merge(runs)) as replies:
                async for reply in replies:
                    yield reply

    return run()


class Continuation:
    """Turns the events of one sequence into replies."""

    def __init__(
        self,
        index: int,
        model: LoadedModel,
        parsed: GenerateCall,
        prompt_len: int,
        metrics: Metrics,
    ) -> None:
        """``index``: which of the continuations of its prompt it is."""
        self._index = index
        self._model = model
        self._parsed = parsed
        self._metrics = metrics
        self._call: Call = current_call()
        self._text = Detokenizer(model.tokenizer.surfaces, parsed.stop.strings)
        self._vectors = TokenVectors(parsed.layers, prompt_len)
        self._steps = 0
        self._tensor_bytes = 0
        for token_id in parsed.generated_ids:
            self._push(token_id)
        if self._text.stop_string:
            raise InvalidRequest(
                "generated_token_ids", f"hold the stop string {self._text.stop_string!r}"
            )

    async def replies(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Reply]:
        """Steps and what belongs to them, then an end; the events are closed before it."""
        finish: FinishReason | None = None
        async with aclosing(events):
            async for event in events:
                for reply in self._from_event(event):
                    yield reply
                finish = event.finish or finish
                if self._done_early():
                    finish = "stop"
                    break
        yield self._end(finish)

    def _from_event(self, event: Event) -> Iterator[Reply]:
        token = event.token
        if token is not None and not self._text.stop_string:
            text = self._push(token.token_id)
            if token.logits is not None:
                self._count("logits", len(token.logits.data))
            yield from step_events(token, text, self._index)
        for rows in event.rows:
            for reply in self._vectors.add(rows):
                if reply.embedding.index < self._steps:
                    self._count("rows", len(reply.embedding.vectors.data))
                    reply.continuation = self._index
                    yield reply

    def _push(self, token_id: int) -> str:
        """Take a token; the text that it completes."""
        self._steps += 1
        may_stop = self._steps >= self._parsed.stop.min_new_tokens
        return self._text.push(token_id, may_stop=may_stop)

    def _done_early(self) -> bool:
        """A stop string was met, and the vectors of its last token, one step later, are sent."""
        if not self._text.stop_string:
            return False
        return not self._parsed.layers or self._vectors.sent >= self._steps

    def _end(self, finish: FinishReason | None) -> pb.GenerateResponse:
        end = pb.GenerateEnd(
            finish_reason=_FINISH.get(finish or "error", pb.FINISH_REASON_UNSPECIFIED),
            stop_string=self._text.stop_string,
            text=self._text.flush(),
            usage=types_pb2.Usage(
                input_tokens=0 if self._index else self._call.input_tokens,  # read once for all
                output_tokens=self._steps - len(self._parsed.generated_ids),
                tensor_bytes=self._tensor_bytes,
            ),
            timings=self._call.timings(),
        )
        if self._text.stop_string:  # also one that the last characters completed
            end.finish_reason = pb.FINISH_REASON_STOP
        return pb.GenerateResponse(end=end, continuation=self._index)

    def _count(self, kind: str, num_bytes: int) -> None:
        self._tensor_bytes += num_bytes
        self._metrics.count_reply(self._call, self._model.name, kind, num_bytes)
