"""What every result of a text that was read token by token tells beside its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from headstream.client import _replies

if TYPE_CHECKING:
    from headstream.client._results import Fingerprint, Timings, Usage
    from headstream.v1 import embeddings_service_pb2 as embeddings_pb
    from headstream.v1 import internals_service_pb2 as internals_pb


class ReadText(TypedDict):
    """Fields of such a result."""

    tokens: list[str]
    surfaces: list[bytes]
    token_ids: list[int]
    offsets: list[tuple[int, int]]
    byte_offsets: list[tuple[int, int]]
    special: list[bool]
    usage: Usage
    timings: Timings
    fingerprint: Fingerprint
    request_id: str


def read_text(
    start: internals_pb.TraceStart | embeddings_pb.EmbedTokensStart,
    end: internals_pb.TraceEnd | embeddings_pb.EmbedTokensEnd,
) -> ReadText:
    """From the first and the last event of a stream."""
    table = _replies.token_table(start.tokens)
    return ReadText(
        tokens=table.tokens,
        surfaces=table.surfaces,
        token_ids=table.token_ids,
        offsets=table.offsets,
        byte_offsets=table.byte_offsets,
        special=table.special,
        usage=_replies.usage(end.usage),
        timings=_replies.timings(end.timings),
        fingerprint=_replies.fingerprint(start.fingerprint),
        request_id=start.request_id,
    )
