"""Texts to embed: tokenized, then run together or one by one; a bad one fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from headstream.model.outputs import Outputs, PoolSpec
from headstream.model.sites import Edit
from headstream.server.admission import Ticket
from headstream.server.call import current_call
from headstream.server.engine.stream import WireTensor
from headstream.server.errors import (
    EngineFault,
    EngineUnavailable,
    InvalidRequest,
    ServiceError,
)
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.offsets import TokenizedText
from headstream.server.patches import make_edits
from headstream.server.sequence_run import run_sequence, tokenize
from headstream.server.status import public_message
from headstream.server.together import gather
from headstream.server.wire.budget import check_message
from headstream.server.wire.embed import VectorOptions
from headstream.server.wire.inputs import (
    ParsedInput,
    TextInput,
    check_length,
    cut_tokens,
    least_tokens,
    parse_input,
)
from headstream.server.wire.interventions import Change
from headstream.server.wire.spans import parse_spans, pool_positions
from headstream.server.wire.tensors import SCALE_BYTES
from headstream.server.wire.vectors import finish_vectors
from headstream.v1 import embeddings_service_pb2 as pb

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.front")


@dataclass(frozen=True, slots=True)
class _Item:
    """One text, ready to run."""

    tokens: TokenizedText
    positions: tuple[tuple[int, ...], ...]
    single: bool  # one vector for the text, not one per span
    truncated: bool


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
        self._edits: tuple[Edit, ...] = ()

    async def embed(
        self, inputs: Sequence[pb.EmbedInput], field: str = "inputs", *, all_or_none: bool = False
    ) -> list[pb.EmbedResult]:
        """One result per input, in their order.

        ``field``: the word for the inputs in errors. ``all_or_none``: the first error is raised.
        """
        least = sum(least_tokens(item.input, self._model.limits) for item in inputs)
        with self._model.queue.enter(len(inputs), least_tokens=least) as tickets:
            prepared = await gather(
                [self._prepare(f"{field}[{i}]", item) for i, item in enumerate(inputs)]
            )
            for item in prepared if all_or_none else ():
                if isinstance(item, InvalidRequest):
                    raise item
            good = [
                (ticket, item)
                for ticket, item in zip(tickets, prepared, strict=True)
                if isinstance(item, _Item)
            ]
            for ticket, item in zip(tickets, prepared, strict=True):
                if not isinstance(item, _Item):
                    ticket.give_up()
            self._model.queue.charge(
                [ticket for ticket, _ in good], [len(item.tokens) for _, item in good]
            )
            await self.prepare([ticket for ticket, _ in good])
            vectors = iter(await gather([self._run(ticket, item) for ticket, item in good]))
            return [
                next(vectors) if isinstance(item, _Item) else _to_error(item) for item in prepared
            ]

    async def prepare(self, own: Sequence[Ticket] = ()) -> None:
        """Before the first text runs: what changes to the model take from other inputs.

        ``own``: the places of the texts, where they have some already.
        """
        self._edits = await make_edits(self._model, self._metrics, self._changes, own)

    async def answer(self, field: str, message: pb.EmbedInput) -> pb.EmbedResult:
        """The result of one item of many, which waits for its place in the queue.

        Raises:
            EngineUnavailable: No item can be answered any more.
        """
        num_bytes = max(1, len(message.spans)) * self._options.vector_bytes
        try:
            check_message(num_bytes, self._model.limits, f"{field}.spans: their vectors")
            item = await self._prepare(field, message)
            if isinstance(item, InvalidRequest):
                return _to_error(item)
            async with self._model.queue.wait(len(item.tokens)) as ticket:
                return await self._run(ticket, item)
        except EngineUnavailable:
            raise
        except ServiceError as error:
            if isinstance(error, EngineFault):
                log.exception("fault", request_id=current_call().request_id)
            return _to_error(error)

    async def _prepare(self, field: str, message: pb.EmbedInput) -> _Item | InvalidRequest:
        """The item, or why it cannot be embedded; the others do not suffer from it."""
        options, limits = self._options, self._model.limits
        try:
            spans = parse_spans(f"{field}.spans", message.spans)
            parsed = parse_input(f"{field}.input", message.input, limits, truncate=options.truncate)
            prompt = options.prompt_of(parsed)
            tokens = await tokenize(self._model, parsed, prompt)
            kept = cut_tokens(tokens, limits.max_model_len) if options.truncate else tokens
            check_length(f"{field}.input", len(kept), limits)
            positions = pool_positions(
                field,
                kept,
                spans,
                options.unit,
                options.pooling,
                prompt=prompt,
                first=await self._first_pooled(parsed, prompt),
            )
        except InvalidRequest as error:
            return error
        truncated = parsed.cut or len(kept) < len(tokens)
        return _Item(kept, positions, single=not spans, truncated=truncated)

    async def _first_pooled(self, parsed: ParsedInput, prompt: str) -> int:
        """The position where pooling begins: behind the prompt, for models that leave it out.

        Its tokens are those of the prompt alone, as sentence-transformers counts them: the last may
        have merged with the text's first.
        """
        if not prompt or self._options.pool_prompt or not isinstance(parsed, TextInput):
            return 0
        alone = await tokenize(self._model, TextInput(prompt, parsed.skip_special))
        return len(alone) - (alone.special[-1:] == (True,))

    async def _run(self, ticket: Ticket, item: _Item) -> pb.EmbedResult:
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
        current_call().tensor_bytes += num_bytes
        self._metrics.reply_bytes.labels(self._model.name, "vectors").inc(num_bytes)
        return pb.EmbedResult(embedding=embedding)


def _to_error(error: ServiceError) -> pb.EmbedResult:
    code: int = error.code.value[0]
    message = public_message(error, current_call().request_id)
    item = pb.ItemError(code=code, message=message, reason=error.reason)
    return pb.EmbedResult(error=item)
