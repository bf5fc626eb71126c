"""InternalsService: what happens inside the model while it reads a text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import TypeVar

from headstream.server.call import current_call
from headstream.server.context import Context
from headstream.server.engine.stream import Event, SeenEvent
from headstream.server.look_run import run_look
from headstream.server.metrics import Metrics
from headstream.server.models import Models
from headstream.server.wire.attention import parse_attention, pattern_events
from headstream.server.wire.interventions import parse_interventions
from headstream.server.wire.lens import lens_events, parse_lens
from headstream.server.wire.priority import parse_priority
from headstream.server.wire.trace import parse_trace, trace_events
from headstream.v1 import internals_service_pb2 as pb
from headstream.v1 import internals_service_pb2_grpc

ReplyT = TypeVar("ReplyT", pb.TraceResponse, pb.AttentionResponse, pb.LogitLensResponse)

_NOTHING = SeenEvent()


class InternalsService(internals_service_pb2_grpc.InternalsServiceServicer):
    """Values of named places, attention weights, and what each layer would predict."""

    def __init__(self, models: Models, metrics: Metrics) -> None:
        self._models = models
        self._metrics = metrics

    async def Trace(  # noqa: N802 - named by the contract
        self,
        request: pb.TraceRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> AsyncIterator[pb.TraceResponse]:
        """The token table, then the values as they are computed, then an end."""
        model = self._models.get(request.model, parse_priority("priority", request.priority))
        changes = parse_interventions(request.interventions, model.ready, model.limits)
        asked = parse_trace(request, model.ready, model.limits)

        def tell(event: Event) -> Iterator[pb.TraceResponse]:
            for reply, num_bytes in trace_events(event, stacked=asked.stacked):
                self._count(model.name, "sites", num_bytes)
                yield reply

        look = run_look(model, self._metrics, asked, changes)
        async with aclosing(_replies(look, pb.TraceResponse, tell)) as replies:
            async for reply in replies:
                yield reply

    async def Attention(  # noqa: N802 - named by the contract
        self,
        request: pb.AttentionRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> AsyncIterator[pb.AttentionResponse]:
        """The token table, then the weights as they are computed, then an end."""
        model = self._models.get(request.model, parse_priority("priority", request.priority))
        changes = parse_interventions(request.interventions, model.ready, model.limits)
        asked = parse_attention(request, model.ready, model.limits)

        def tell(event: Event) -> Iterator[pb.AttentionResponse]:
            for reply in pattern_events(_seen(event).patterns, asked.heads):
                num_bytes = len(reply.chunk.weights.data) + len(reply.chunk.keys.data)
                self._count(model.name, "patterns", num_bytes)
                yield reply

        look = run_look(model, self._metrics, asked, changes)
        async with aclosing(_replies(look, pb.AttentionResponse, tell)) as replies:
            async for reply in replies:
                yield reply

    async def LogitLens(  # noqa: N802 - named by the contract
        self,
        request: pb.LogitLensRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> AsyncIterator[pb.LogitLensResponse]:
        """The token table, then the rows of all layers as they are computed, then an end."""
        model = self._models.get_for_logits(
            request.model, parse_priority("priority", request.priority), "LogitLens"
        )
        changes = parse_interventions(request.interventions, model.ready, model.limits)
        asked = parse_lens(request, model.limits)

        def tell(event: Event) -> Iterator[pb.LogitLensResponse]:
            for reply in lens_events(_seen(event).lens):
                self._count(model.name, "logits", len(reply.row.logits.values.data))
                yield reply

        look = run_look(model, self._metrics, asked, changes)
        async with aclosing(_replies(look, pb.LogitLensResponse, tell)) as replies:
            async for reply in replies:
                yield reply

    def _count(self, model: str, kind: str, num_bytes: int) -> None:
        self._metrics.count_reply(current_call(), model, kind, num_bytes)


async def _replies(
    look: AsyncGenerator[pb.TraceStart | Event | pb.TraceEnd],
    make: type[ReplyT],
    tell: Callable[[Event], Iterator[ReplyT]],
) -> AsyncGenerator[ReplyT]:
    """A look as its method answers it; ``tell``: what a step has shown."""
    async with aclosing(look) as events:
        async for event in events:
            if isinstance(event, pb.TraceStart):
                yield make(start=event)
            elif isinstance(event, Event):
                for reply in tell(event):
                    yield reply
            else:
                yield make(end=event)


def _seen(event: Event) -> SeenEvent:
    return event.seen or _NOTHING
