"""EmbeddingsService: contextual vectors of texts and tokens, and static ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from headstream.model.outputs import Outputs, RowsSpec
from headstream.server.call import current_call
from headstream.server.context import Context
from headstream.server.embed_stream import EmbedStream
from headstream.server.embedder import Embedder
from headstream.server.first_request import first_request
from headstream.server.metrics import Metrics
from headstream.server.models import Models
from headstream.server.patches import make_edits
from headstream.server.sequence_run import run_sequence, tokenize
from headstream.server.wire.budget import check_budget, check_message
from headstream.server.wire.embed import parse_options
from headstream.server.wire.fields import check_count
from headstream.server.wire.inputs import TextInput, check_length, least_tokens, parse_input
from headstream.server.wire.interventions import parse_interventions
from headstream.server.wire.layers import FINAL, resolve_layers
from headstream.server.wire.model import to_fingerprint
from headstream.server.wire.priority import parse_priority
from headstream.server.wire.tensors import ITEM_BYTES, cut_rows, parse_float_dtype, put_tensor
from headstream.server.wire.tokens import to_table
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import embeddings_service_pb2_grpc, types_pb2


class EmbeddingsService(embeddings_service_pb2_grpc.EmbeddingsServiceServicer):
    """Contextual and static embeddings."""

    def __init__(self, models: Models, metrics: Metrics, session_idle: float) -> None:
        """``session_idle``: seconds that an EmbedStream call may be open without an item."""
        self._models = models
        self._metrics = metrics
        self._session_idle = session_idle

    async def Embed(  # noqa: N802 - named by the contract
        self,
        request: pb.EmbedRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.EmbedResponse:
        """One vector per text, or per span of it; all texts at once."""
        model = self._models.get(request.model, parse_priority("priority", request.priority))
        changes = parse_interventions(request.interventions, model.ready, model.limits)
        check_count("inputs", request.inputs, 1, model.limits.max_inputs)
        options = parse_options("options", request.options, model.limits, model.ready.embedding)
        num_vectors = sum(max(1, len(item.spans)) for item in request.inputs)
        check_message(num_vectors * options.vector_bytes, model.limits, "the vectors of the reply")
        embedder = Embedder(model, self._metrics, options, changes)
        results = await embedder.embed(request.inputs)
        call = current_call()
        return pb.EmbedResponse(
            results=results,
            usage=call.usage(),
            timings=call.timings(),
            fingerprint=to_fingerprint(model.name, model.ready),
        )

    async def EmbedTokens(  # noqa: N802 - named by the contract
        self,
        request: pb.EmbedTokensRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> AsyncIterator[pb.EmbedTokensResponse]:
        """The token table, then the rows of each layer as the prompt is read, then an end."""
        model = self._models.get(request.model, parse_priority("priority", request.priority))
        limits = model.limits
        changes = parse_interventions(request.interventions, model.ready, limits)
        layers = resolve_layers("layers.layers", request.layers.layers or [FINAL], limits.n_layers)
        dtype = parse_float_dtype("dtype", request.dtype)
        parsed = parse_input("input", request.input, limits)
        with model.queue.enter(least_tokens=least_tokens(request.input, limits)) as tickets:
            tokens = await tokenize(model, parsed)
            check_length("input", len(tokens), limits)
            asked = request.max_reply_bytes if request.HasField("max_reply_bytes") else None
            num_bytes = len(tokens) * len(layers) * limits.d_model * ITEM_BYTES[dtype]
            check_budget(num_bytes, limits, asked)
            model.queue.charge(tickets, [len(tokens)])
            edits = await make_edits(model, self._metrics, changes, tickets)
            events = run_sequence(
                model,
                self._metrics,
                tickets[0],
                tokens.ids,
                outputs=Outputs(rows=RowsSpec(prompt_layers=layers, dtype=dtype)),
                edits=edits,
            )
            call = current_call()
            async with aclosing(events):
                start = pb.EmbedTokensStart(
                    request_id=call.request_id,
                    tokens=to_table(tokens),
                    layers=layers,
                    dimensions=limits.d_model,
                    tensor_bytes=num_bytes,
                    fingerprint=to_fingerprint(model.name, model.ready),
                )
                yield pb.EmbedTokensResponse(start=start)
                async for event in events:
                    for rows in event.rows:
                        num_bytes = len(rows.values.data)
                        self._metrics.count_reply(call, model.name, "rows", num_bytes)
                        for first, part in cut_rows(rows.values):
                            reply = pb.EmbedTokensResponse()
                            reply.chunk.layer_index = layers.index(rows.layer)
                            reply.chunk.start = rows.start + first
                            put_tensor(reply.chunk.rows, part)
                            yield reply
                end = pb.EmbedTokensEnd(usage=call.usage(), timings=call.timings())
                yield pb.EmbedTokensResponse(end=end)

    async def EmbedStream(  # noqa: N802 - named by the contract
        self,
        request_iterator: AsyncIterator[pb.EmbedStreamRequest],
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        """Any number of texts; their vectors in any order, and an error for each bad one."""
        first = await first_request(request_iterator, self._session_idle, "item")
        if first is None:
            return
        model = self._models.get(first.model, parse_priority("priority", first.priority))
        options = parse_options("options", first.options, model.limits, model.ready.embedding)
        changes = parse_interventions(first.interventions, model.ready, model.limits)
        embedder = Embedder(model, self._metrics, options, changes)
        await embedder.prepare()
        stream = EmbedStream(model, self._metrics, embedder, self._session_idle)
        async with aclosing(stream.replies(first, request_iterator)) as replies:
            async for reply in replies:
                yield reply

    async def LookupEmbeddings(  # noqa: N802 - named by the contract
        self,
        request: pb.LookupEmbeddingsRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.LookupEmbeddingsResponse:
        """Rows of the embedding matrix, without a forward pass."""
        model = self._models.get(request.model)
        dtype = parse_float_dtype("dtype", request.dtype)
        parsed = parse_input("input", request.input, model.limits)
        if isinstance(parsed, TextInput):
            parsed = TextInput(parsed.text, skip_special=True)
        tokens = await tokenize(model, parsed)
        check_length("input", len(tokens), model.limits)
        num_bytes = len(tokens) * model.limits.d_model * ITEM_BYTES[dtype]
        check_message(num_bytes, model.limits, "the rows of the reply")
        rows = await model.handle.lookup(tokens.ids, dtype)
        self._metrics.reply_bytes.labels(model.name, "lookups").inc(num_bytes)
        reply = pb.LookupEmbeddingsResponse(
            tokens=types_pb2.TokenIds(ids=tokens.ids),
            fingerprint=to_fingerprint(model.name, model.ready),
        )
        put_tensor(reply.rows, rows)
        return reply
