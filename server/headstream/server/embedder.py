"""Texts to embed: tokenized, then run together or one by one; a bad one fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import structlog

from headstream.model.outputs import Outputs, PoolSpec
from headstream.model.sites import Edit
from headstream.server.admission import Ticket
from headstream.server.call import current_call
from headstream.server.engine.stream import WireTensor
from headstream.server.errors import (
    EngineFault,
    EngineUnavailable,
    ServiceError,
)
from headstream.server.item_reader import Item, ItemReader
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.patches import make_edits
from headstream.server.sequence_run import run_sequence
from headstream.server.status import public_message
from headstream.server.together import gather
from headstream.server.wire.embed import VectorOptions
from headstream.server.wire.inputs import least_tokens
from headstream.server.wire.interventions import Change
from headstream.server.wire.tensors import SCALE_BYTES
from headstream.server.wire.vectors import finish_vectors
from headstream.v1 import embeddings_service_pb2 as pb

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.front")


class Embedder:
    """Makes the vectors of one call."""

    def __init__(
        self,
        model: LoadedModel,
        metrics: Metrics,
        options: VectorOptions,
        changes: Sequence[Change],
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._options = options
        self._changes = changes
        self._reader = ItemReader(model, options)
        self._edits: tuple[Edit, ...] = ()

    async def embed(
        self, inputs: Sequence[pb.EmbedInput], field: str = "inputs", *, all_or_none: bool = False
    ) -> list[pb.EmbedResult]:
        """One result per input, in their order.

        ``field``: the word for the inputs in errors. ``all_or_none``: the first error is raised.
        """
        least = sum(least_tokens(item.input, self._model.limits) for item in inputs)
        with self._model.queue.enter(len(inputs), least_tokens=least) as tickets:
            fields = [f"{field}[{i}]" for i in range(len(inputs))]
            prepared = await self._reader.read(fields, inputs)
            for item in prepared if all_or_none else ():
                if isinstance(item, ServiceError):
                    raise item
            good = [
                (ticket, item)
                for ticket, item in zip(tickets, prepared, strict=True)
                if isinstance(item, Item)
            ]
            for ticket, item in zip(tickets, prepared, strict=True):
                if not isinstance(item, Item):
                    ticket.give_up()
            self._model.queue.charge(
                [ticket for ticket, _ in good], [len(item.tokens) for _, item in good]
            )
            await self.prepare([ticket for ticket, _ in good])
            vectors = iter(await gather([self._run(ticket, item) for ticket, item in good]))
            return [
                next(vectors) if isinstance(item, Item) else _to_error(item) for item in prepared
            ]

    async def prepare(self, own: Sequence[Ticket] = ()) -> None:
        """Before the first text runs: what changes to the model take from other inputs.

        ``own``: the places of the texts, where they have some already.
        """
        self._edits = await make_edits(self._model, self._metrics, self._changes, own)

    async def read(
        self, field: str, messages: Sequence[pb.EmbedInput]
    ) -> list[Item | pb.EmbedResult]:
        """Items of many, ready to be answered, and the answers to the bad ones."""
        items = await self._reader.read([field] * len(messages), messages)
        return [item if isinstance(item, Item) else _to_error(item) for item in items]

    async def answer(self, item: Item) -> pb.EmbedResult:
        """The result of one item of many, which waits for its place in the queue.

        Raises:
            EngineUnavailable: No item can be answered any more.
        """
        try:
            async with self._model.queue.wait(len(item.tokens), bulk=True) as ticket:
                return await self._run(ticket, item)
        except EngineUnavailable:
            raise
        except ServiceError as error:
            if isinstance(error, EngineFault):
                log.exception("fault", request_id=current_call().request_id)
            return _to_error(error)

    async def _run(self, ticket: Ticket, item: Item) -> pb.EmbedResult:
        options = self._options
        pool = PoolSpec(layer=options.layer, kind=options.pooling.kind, spans=item.positions)
        pooled: WireTensor | None = None
        events = run_sequence(
            self._model,
            self._metrics,
            ticket,
            item.tokens.ids,
            outputs=Outputs(pool=pool),
            edits=self._edits,
        )
        async with aclosing(events):
            async for event in events:
                pooled = event.vectors or pooled
        if pooled is None:
            raise EngineFault("the engine ended an embedding without its vectors")
        embedding = finish_vectors(
            pooled,
            options.dimensions,
            normalize=options.normalize,
            dtype=options.dtype,
            single=item.single,
        )
        embedding.num_tokens = len(item.tokens)
        embedding.truncated = item.truncated
        num_bytes = len(embedding.vectors.data) + SCALE_BYTES * len(embedding.scales)
        self._metrics.count_reply(current_call(), self._model.name, "vectors", num_bytes)
        return pb.EmbedResult(embedding=embedding)


def _to_error(error: ServiceError) -> pb.EmbedResult:
    code: int = error.code.value[0]
    message = public_message(error, current_call().request_id)
    item = pb.ItemError(code=code, message=message, reason=error.reason)
    return pb.EmbedResult(error=item)
