"""Which logits of a row are wanted, and the message that holds them."""

from __future__ import annotations

from collections.abc import Sequence

from headstream.model.outputs import LogitsSpec
from headstream.server.engine.stream import WireTensor
from headstream.server.errors import InvalidRequest
from headstream.server.limits import Limits
from headstream.server.wire.fields import (
    check_count,
    check_distinct,
    check_int,
    check_token_ids,
)
from headstream.server.wire.tensors import (
    CHUNK_BYTES,
    parse_float_dtype,
    put_tensor,
)
from headstream.v1 import logits_service_pb2 as pb

DEFAULT_TOP_K = 10


def parse_logits(field: str, options: pb.LogitsOptions, limits: Limits) -> LogitsSpec:
    """The logits asked for."""
    dtype = parse_float_dtype(f"{field}.dtype", options.dtype)
    if options.scale not in pb.LogitsScale.values():
        raise InvalidRequest(f"{field}.scale", "unknown value")
    logprobs = options.scale == pb.LOGITS_SCALE_LOGPROBS
    match options.mode:
        case pb.LOGITS_MODE_UNSPECIFIED:
            return LogitsSpec()
        case pb.LOGITS_MODE_TOP_K:
            asked = options.top_k if options.HasField("top_k") else DEFAULT_TOP_K
            if not options.HasField("top_k"):
                asked = min(asked, limits.max_top_k)
            top_k = check_int(f"{field}.top_k", asked, 1, limits.max_top_k)
            return LogitsSpec("top", top_k=top_k, logprobs=logprobs, dtype=dtype)
        case pb.LOGITS_MODE_CHOSEN:
            check_count(f"{field}.token_ids", options.token_ids, 1, limits.max_top_k)
            ids = check_token_ids(f"{field}.token_ids", options.token_ids, limits.d_vocab)
            check_distinct(f"{field}.token_ids", ids)
            return LogitsSpec("chosen", token_ids=ids, logprobs=logprobs, dtype=dtype)
        case pb.LOGITS_MODE_FULL:
            return LogitsSpec("full", logprobs=logprobs, dtype=dtype)
        case _:
            raise InvalidRequest(f"{field}.mode", "unknown value")


def put_logits(into: pb.Logits, tensor: WireTensor, token_ids: Sequence[int]) -> int:
    """Write the logits of a row into a message.

    Returns the number of chunks that their bytes come in; 0: they are in the message.
    """
    size = len(tensor.data)
    chunks = 0 if size <= CHUNK_BYTES else -(-size // CHUNK_BYTES)
    put_tensor(into.values, tensor, data=not chunks)
    into.token_ids.extend(token_ids)
    return chunks
