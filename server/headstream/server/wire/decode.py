"""Moves of decoding sessions, and the answers to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headstream.model.outputs import LogitsSpec
from headstream.server.engine.stream import LogitRowEvent
from headstream.server.errors import InvalidRequest
from headstream.server.limits import Limits
from headstream.server.wire.budget import check_budget
from headstream.server.wire.fields import check_int, check_token_ids
from headstream.server.wire.inputs import ParsedInput, check_length, parse_input
from headstream.server.wire.logits import parse_logits, put_logits
from headstream.server.wire.tensors import (
    CHUNK_BYTES,
    ITEM_BYTES,
    cut_bytes,
    parse_float_dtype,
)
from headstream.v1 import logits_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A checked first move."""

    move_id: int
    prompt: ParsedInput
    logits: LogitsSpec
    max_tokens: int  # of a branch

    def check_prompt(self, num_tokens: int, limits: Limits) -> None:
        """Refuse a prompt that no branch may hold."""
        check_length("open.prompt", num_tokens, limits)
        if num_tokens > self.max_tokens:
            message = f"has {num_tokens} tokens; max_tokens is {self.max_tokens}"
            raise InvalidRequest("open.prompt", message)


def parse_open(request: pb.DecodeRequest, limits: Limits) -> OpenCall:
    """The first move, if every field keeps its limits."""
    message = request.open
    longest = min(limits.max_model_len, limits.max_session_tokens)
    max_tokens = message.max_tokens if message.HasField("max_tokens") else longest
    return OpenCall(
        move_id=request.id,
        prompt=parse_input("open.prompt", message.prompt, limits),
        logits=_parse_logits(message.logits, limits),
        max_tokens=check_int("open.max_tokens", max_tokens, 1, longest),
    )


def _parse_logits(options: pb.LogitsOptions, limits: Limits) -> LogitsSpec:
    """The logits of each row; FULL where no mode is set."""
    spec = parse_logits("open.logits", options, limits)
    if spec.mode != "none":
        return spec
    dtype = parse_float_dtype("open.logits.dtype", options.dtype)
    return LogitsSpec("full", logprobs=options.scale == pb.LOGITS_SCALE_LOGPROBS, dtype=dtype)


def parse_append(
    message: pb.DecodeAppend, length: int, opened: OpenCall, limits: Limits
) -> tuple[int, ...]:
    """The tokens for a branch of ``length`` tokens."""
    count = len(message.token_ids)
    if not count:
        raise InvalidRequest("append.token_ids", "is empty")
    if length + count > opened.max_tokens:
        what = f"{count} tokens behind {length} make {length + count}"
        raise InvalidRequest("append.token_ids", f"{what}; a branch may hold {opened.max_tokens}")
    row_bytes = opened.logits.row_values(limits.d_vocab) * ITEM_BYTES[opened.logits.dtype]
    check_budget(count * row_bytes, limits, None)
    return check_token_ids("append.token_ids", message.token_ids, limits.d_vocab)


def parse_rollback(message: pb.DecodeRollback, length: int) -> int:
    """The tokens to keep of a branch of ``length`` tokens."""
    return check_int("rollback.length", message.length, 1, length)


def to_parts(rows: Iterable[LogitRowEvent]) -> Iterator[pb.DecodeResponse]:
    """The rows in answers of at most 1 MiB of values each; a larger row comes in chunks."""
    part, size = pb.DecodeResponse(), 0
    for row in rows:
        num_bytes = len(row.values.data)
        if part.logits and size + num_bytes > CHUNK_BYTES:
            yield part
            part, size = pb.DecodeResponse(), 0
        if put_logits(part.logits.add(), row.values, row.token_ids):
            yield part
            yield from (pb.DecodeResponse(chunk=data) for _, data in cut_bytes(row.values.data))
            part, size = pb.DecodeResponse(), 0
        else:
            size += num_bytes
    if part.logits:
        yield part
