"""What the three ways of looking inside have in common: their start and their end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from headstream.server.engine.look import Look
from headstream.server.engine.messages import Ready
from headstream.server.limits import Limits
from headstream.server.offsets import TokenizedText
from headstream.server.wire.inputs import ParsedInput
from headstream.server.wire.model import to_fingerprint
from headstream.server.wire.tokens import to_table
from headstream.v1 import internals_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class FittedLook:
    """What is asked of an input whose tokens are known."""

    look: Look
    tensor_bytes: int  # that will be sent; at most, where tokens are generated
    kept_bytes: int  # that the engine keeps meanwhile
    max_new_tokens: int = 0


class LookCall(Protocol):
    """A checked request."""

    @property
    def input(self) -> ParsedInput:
        """What is read."""
        ...

    @property
    def max_reply_bytes(self) -> int | None:
        """The caller's own limit."""
        ...

    def fit(self, num_tokens: int, limits: Limits) -> FittedLook:
        """The same for an input of so many tokens, if it has what is asked for."""
        ...


def to_start(
    request_id: str, name: str, ready: Ready, tokens: TokenizedText, tensor_bytes: int
) -> pb.TraceStart:
    """The first event."""
    return pb.TraceStart(
        tokens=to_table(tokens),
        tensor_bytes=tensor_bytes,
        fingerprint=to_fingerprint(name, ready),
        request_id=request_id,
        rotary="pos_embed" not in ready.sites,
    )
