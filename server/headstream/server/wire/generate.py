"""Generate requests, and the events of a continuation."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from headstream.model.outputs import Outputs, RowsSpec, SamplingParams
from headstream.server.engine.stream import RowsEvent, TokenEvent, WireTensor
from headstream.server.errors import InvalidRequest
from headstream.server.limits import Limits
from headstream.server.wire.budget import check_budget, check_message, generate_token_bytes
from headstream.server.wire.bulk import BULK_BYTES, Bulk
from headstream.server.wire.constraint import Constraint, parse_constraint
from headstream.server.wire.fields import check_count, check_token_ids
from headstream.server.wire.inputs import ParsedInput, parse_input
from headstream.server.wire.layers import resolve_layers
from headstream.server.wire.logits import parse_logits, put_logits
from headstream.server.wire.sampling import StopRules, parse_sampling, parse_seeds, parse_stop
from headstream.server.wire.tensors import (
    CHUNK_BYTES,
    ITEM_BYTES,
    cut_bytes,
    parse_float_dtype,
    put_tensor,
)
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import tensor_pb2

Reply = pb.GenerateResponse | Bulk[pb.GenerateResponse]


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """A checked request."""

    prompt: ParsedInput
    sampling: SamplingParams
    seeds: tuple[int, ...]  # of the continuations
    constraint: Constraint | None
    stop: StopRules
    outputs: Outputs
    generated_ids: tuple[int, ...]  # before the stream broke that this one goes on with
    token_bytes: int  # of tensors, with a generated token of each continuation
    max_reply_bytes: int | None  # the caller's own limit

    @property
    def n(self) -> int:
        """Number of continuations."""
        return len(self.seeds)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers whose rows are sent, in the order asked."""
        return self.outputs.rows.generated_layers


def parse_generate(request: pb.GenerateRequest, limits: Limits) -> GenerateCall:
    """The request, if every field keeps its limits."""
    stop = parse_stop("stop", request.stop, limits)
    logits = parse_logits("logits", request.logits, limits)
    rows = _parse_rows(request.embeddings, limits)
    layers = len(rows.generated_layers)
    rows_bytes = ITEM_BYTES[rows.dtype]
    check_message(layers * limits.d_model * rows_bytes, limits, "the vectors of one token")
    sampling = parse_sampling("sampling", request.sampling, limits)
    seeds = parse_seeds("sampling", request.sampling, sampling.seed, limits)
    generated = request.generated_token_ids
    if generated and len(seeds) > 1:
        raise InvalidRequest("generated_token_ids", "goes with n = 1 alone")
    check_generated(generated, stop.max_new_tokens)
    call = GenerateCall(
        prompt=parse_input("prompt", request.prompt, limits),
        sampling=sampling,
        seeds=seeds,
        constraint=(
            parse_constraint("sampling.constraint", request.sampling.constraint)
            if request.sampling.HasField("constraint")
            else None
        ),
        stop=stop,
        outputs=Outputs(
            logits=logits,
            logprob=request.logprob if request.HasField("logprob") else True,
            rows=rows,
        ),
        generated_ids=check_token_ids("generated_token_ids", generated, limits.d_vocab),
        token_bytes=len(seeds) * generate_token_bytes(logits, rows_bytes, layers, limits),
        max_reply_bytes=request.max_reply_bytes if request.HasField("max_reply_bytes") else None,
    )
    if not stop.may_clip:  # otherwise the number of tokens is known only with the prompt
        new_tokens = stop.max_new_tokens - len(call.generated_ids)
        check_budget(new_tokens * call.token_bytes, limits, call.max_reply_bytes)
    return call


def check_generated(ids: Collection[int], max_new_tokens: int) -> None:
    """Refuse a continuation that has all of its tokens."""
    check_count("generated_token_ids", ids, 0, max_new_tokens - 1)


def _parse_rows(message: pb.GeneratedEmbeddings, limits: Limits) -> RowsSpec:
    layers = resolve_layers("embeddings.layers", message.layers.layers, limits.n_layers)
    dtype = parse_float_dtype("embeddings.dtype", message.dtype)
    return RowsSpec(generated_layers=layers, dtype=dtype)


def step_events(token: TokenEvent, text: str, continuation: int) -> Iterator[Reply]:
    """A step, and the chunks of its logits where they are large."""
    reply = pb.GenerateResponse(continuation=continuation)
    step = reply.step
    step.index, step.token_id, step.text = token.index, token.token_id, text
    if token.logprob is not None:
        step.logprob = token.logprob
    if token.logits is None:
        yield reply
    elif BULK_BYTES <= len(token.logits.data) <= CHUNK_BYTES:
        yield _with_row(step, token.logits, token.logits_ids, continuation)
    else:
        step.chunks = put_logits(step.logits, token.logits, token.logits_ids)
        yield reply
        if step.chunks:
            yield from _chunks(token.index, token.logits.data, continuation)


def _with_row(
    step: pb.GenerateStep, row: WireTensor, token_ids: tuple[int, ...], continuation: int
) -> Reply:
    """A step with a long row of logits, [k] or [V]."""
    tensor = tensor_pb2.Tensor()
    put_tensor(tensor, row, data=False)
    inner = (
        (step, pb.GenerateStep.LOGITS_FIELD_NUMBER),
        (pb.Logits(token_ids=token_ids), pb.Logits.VALUES_FIELD_NUMBER),
        (tensor, tensor_pb2.Tensor.DATA_FIELD_NUMBER),
    )
    whole = pb.GenerateResponse(continuation=continuation)
    return Bulk(whole, pb.GenerateResponse.STEP_FIELD_NUMBER, inner, row.data)


def _chunks(index: int, row: bytes, continuation: int) -> Iterator[Reply]:
    for offset, data in cut_bytes(row):
        chunk = pb.GenerateChunk(index=index, offset=offset)
        inner = ((chunk, pb.GenerateChunk.DATA_FIELD_NUMBER),)
        whole = pb.GenerateResponse(continuation=continuation)
        yield Bulk(whole, pb.GenerateResponse.CHUNK_FIELD_NUMBER, inner, data)


class TokenVectors:
    """Gathers the rows of generated positions until a token has all layers asked for."""

    def __init__(self, layers: tuple[int, ...], prompt_len: int) -> None:
        self._layers = layers
        self._prompt_len = prompt_len
        self._rows: dict[int, dict[int, bytes]] = {}
        self.sent = 0  # tokens whose vectors are complete

    def add(self, event: RowsEvent) -> Iterator[pb.GenerateResponse]:
        """An event for each token that this completes."""
        num_rows, d_model = event.values.shape
        size = len(event.values.data) // max(1, num_rows)
        for row in range(num_rows):
            index = event.start + row - self._prompt_len
            if index < 0:
                continue
            rows = self._rows.setdefault(index, {})
            rows[event.layer] = event.values.data[row * size : (row + 1) * size]
            if len(rows) < len(self._layers):
                continue
            data = b"".join(rows[layer] for layer in self._layers)
            del self._rows[index]
            self.sent = index + 1
            vectors = WireTensor(event.values.dtype, (len(self._layers), d_model), data)
            reply = pb.GenerateResponse()
            reply.embedding.index = index
            put_tensor(reply.embedding.vectors, vectors)
            yield reply
