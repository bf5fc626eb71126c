"""What holds for every call, and which calls are open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import grpc

from headstream.access.gate import Gate
from headstream.server.metrics import UNKNOWN_METHOD, Metrics

if TYPE_CHECKING:
    from headstream.server.tracing import Tracing


class Cuttable(Protocol):
    """A call that can be ended from outside."""

    @property
    def endless(self) -> bool:
        """Whether it would outlast any grace: a watch of health or reflection, or a session."""
        ...

    def cut(self) -> None:
        """End it."""


@dataclass
class CallPolicy:
    """What holds for every call, and which calls are open."""

    metrics: Metrics
    gate: Gate
    unary_deadline: float
    stream_deadline: float
    stalled_stream: float
    max_message_bytes: int
    tracing: Tracing | None = None
    draining: bool = False  # new calls are refused
    open_calls: set[Cuttable] = field(default_factory=set[Cuttable])

    def count_unknown_method(self) -> None:
        """Count a call to a method that does not exist, whatever its name."""
        self.metrics.requests.labels(UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED.name).inc()

    def cut_open_calls(self, *, only_endless: bool = False) -> None:
        """End the calls that are still open; the server stops."""
        for call in list(self.open_calls):
            if call.endless or not only_endless:
                call.cut()
