"""What is known of the call in hand, from its first byte to its log line."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headstream.v1 import types_pb2

if TYPE_CHECKING:
    from headstream.server.call_trace import CallTrace


@dataclass(slots=True)
class Call:
    """One RPC. Services fill it in; the interceptor made it and reports it."""

    method: str
    request_id: str
    streaming: bool
    started_ns: int = field(default_factory=time.perf_counter_ns)
    tenant: str = ""  # name of its token
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    tensor_bytes: int = 0
    tokenize_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    first_output_ns: int = 0
    unfinished_sequences: int = 0  # left before the engine was done with them
    started_output: bool = False
    trace: CallTrace | None = None  # where spans are sent

    def elapsed_ns(self) -> int:
        """Since the call arrived."""
        return time.perf_counter_ns() - self.started_ns

    def note_times(self, queue_ns: int, compute_ns: int) -> None:
        """The engine's times of one of the call's sequences; the slowest counts."""
        self.queue_ns = max(self.queue_ns, queue_ns)
        self.compute_ns = max(self.compute_ns, compute_ns)

    def note_output(self) -> None:
        """The first token or vector of a stream is there."""
        if self.streaming and not self.first_output_ns:
            self.first_output_ns = self.elapsed_ns()

    def usage(self) -> types_pb2.Usage:
        """What the call used so far."""
        return types_pb2.Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            tensor_bytes=self.tensor_bytes,
        )

    def timings(self) -> types_pb2.Timings:
        """Where its time went."""
        return types_pb2.Timings(
            tokenize_ns=self.tokenize_ns,
            queue_ns=self.queue_ns,
            compute_ns=self.compute_ns,
            first_output_ns=self.first_output_ns,
        )


_CURRENT: ContextVar[Call] = ContextVar("headstream_call")


def current_call() -> Call:
    """The call that the running task serves."""
    return _CURRENT.get()


def current_tenant() -> str:
    """The name of its token; empty where none was asked for."""
    call = _CURRENT.get(None)
    return "" if call is None else call.tenant


def enter_call(call: Call) -> None:
    """Make it the running task's call."""
    _CURRENT.set(call)
