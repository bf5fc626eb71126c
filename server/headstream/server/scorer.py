"""The texts of one Score request: tokenized, run together, their events in one stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstream.model.outputs import Outputs, ScoreSpec
from headstream.model.sites import Edit
from headstream.server.admission import Ticket
from headstream.server.call import Call, current_call
from headstream.server.engine.stream import ScoresEvent
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.patches import make_edits
from headstream.server.sequence_run import run_sequence, tokenize
from headstream.server.together import gather, merge
from headstream.server.wire.budget import check_budget
from headstream.server.wire.interventions import Change, shift_edits
from headstream.server.wire.model import to_fingerprint
from headstream.server.wire.score import (
    ScoreCall,
    Window,
    check_scored,
    cut_windows,
    position_events,
    score_values,
    to_summary,
)
from headstream.v1 import logits_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class _Text:
    """One input, ready to run."""

    index: int
    ids: tuple[int, ...]


class Scorer:
    """Answers one request."""

    def __init__(
        self,
        model: LoadedModel,
        metrics: Metrics,
        parsed: ScoreCall,
        changes: Sequence[Change],
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._parsed = parsed
        self._changes = changes
        self._edits: tuple[Edit, ...] = ()
        self._call: Call = current_call()

    async def replies(self) -> AsyncGenerator[pb.ScoreResponse]:
        """A start, the positions of all inputs as they are computed and their summaries, an end."""
        model, parsed = self._model, self._parsed
        with model.queue.enter(len(parsed.inputs)) as tickets:
            texts = await gather([self._prepare(index) for index in range(len(parsed.inputs))])
            num_bytes = parsed.tensor_bytes((len(text.ids) for text in texts), model.limits)
            check_budget(num_bytes, model.limits, parsed.max_reply_bytes)
            context = model.limits.max_model_len  # of a longer text, its first window waits
            model.queue.charge(tickets, [min(len(text.ids), context) for text in texts])
            self._edits = await make_edits(model, self._metrics, self._changes, tickets)
            runs = [self._run(*each) for each in zip(tickets, texts, strict=True)]
            async with aclosing(merge(runs)) as merged:
                yield self._start(texts, num_bytes)
                async for reply in merged:
                    yield reply
            end = pb.ScoreEnd(usage=self._call.usage(), timings=self._call.timings())
            yield pb.ScoreResponse(end=end)

    async def _prepare(self, index: int) -> _Text:
        tokens = await tokenize(self._model, self._parsed.inputs[index])
        stride, limits = self._parsed.window_stride, self._model.limits
        check_scored(f"inputs[{index}]", len(tokens), stride, limits)
        return _Text(index, tokens.ids)

    def _start(self, texts: Sequence[_Text], num_bytes: int) -> pb.ScoreResponse:
        inputs = [
            pb.ScoreInput(num_tokens=len(text.ids), first_token_id=text.ids[0]) for text in texts
        ]
        start = pb.ScoreStart(
            request_id=self._call.request_id,
            fingerprint=to_fingerprint(self._model.name, self._model.ready),
            inputs=inputs,
            max_tensor_bytes=num_bytes,
        )
        return pb.ScoreResponse(start=start)

    async def _run(self, ticket: Ticket, text: _Text) -> AsyncGenerator[pb.ScoreResponse]:
        """The events of one input: its windows one after the other, so that positions ascend.

        Each waits for a place of its own: a long text with a short stride is read thousands of
        times, and must leave room for others. The first has ``ticket``.
        """
        model, stride = self._model, self._parsed.window_stride
        logprobs: list[NDArray[np.float32]] = []
        for window in cut_windows(len(text.ids), stride, model.limits.max_model_len):
            num_read = window.end - window.begin
            waits = bool(window.begin)
            place = model.queue.wait(num_read, bulk=False) if waits else nullcontext(ticket)
            async with place as own, aclosing(self._scored(own, text, window)) as events:
                async for scores in events:
                    logprobs.append(score_values(scores)[0])
                    for reply in position_events(text.index, window, text.ids, scores):
                        yield reply
        yield pb.ScoreResponse(summary=to_summary(text.index, logprobs))

    async def _scored(
        self, ticket: Ticket, text: _Text, window: Window
    ) -> AsyncGenerator[ScoresEvent]:
        """The scores of one window, as they are computed."""
        spec = ScoreSpec(window.first - window.begin, self._parsed.logits)
        events = run_sequence(
            self._model,
            self._metrics,
            ticket,
            text.ids[window.begin : window.end],
            outputs=Outputs(score=spec),
            edits=shift_edits(self._edits, window.begin),
        )
        async with aclosing(events):
            async for event in events:
                if event.scores is None:
                    continue
                if event.scores.logits is not None:
                    num_bytes = len(event.scores.logits.data)
                    self._metrics.count_reply(self._call, self._model.name, "logits", num_bytes)
                yield event.scores
