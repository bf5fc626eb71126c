"""What is known of the call in hand, from its first byte to its log line."""

from __future__ import annotations

import math
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from headstream.server.engine.priority import Priority
from headstream.v1 import types_pb2

if TYPE_CHECKING:
    from headstream.server.call_trace import CallTrace


class Party(NamedTuple):
    """Who waits: calls of one token that are as urgent as each other."""

    priority: Priority = Priority.NORMAL
    tenant: str = ""


@dataclass(slots=True)
class Call:
    """One RPC. Services fill it in; the interceptor made it and reports it."""

    method: str
    request_id: str
    streaming: bool
    started_ns: int = field(default_factory=time.perf_counter_ns)
    deadline_ns: int | None = None  # the caller's, or the server's
    tenant: str = ""  # name of its token
    max_priority: Priority = Priority.HIGH  # of its token
    priority: Priority = Priority.NORMAL
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

    def ask_priority(self, priority: Priority) -> None:
        """Be as urgent as the caller says, or as its token allows."""
        self.priority = min(priority, self.max_priority)

    def seconds_left(self) -> float:
        """Until its deadline; infinite where it has none."""
        if self.deadline_ns is None:
            return math.inf
        return (self.deadline_ns - time.perf_counter_ns()) / 1e9

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


def current_party() -> Party:
    """Whose call it is, and how urgent."""
    call = _CURRENT.get(None)
    return Party() if call is None else Party(call.priority, call.tenant)


def seconds_left() -> float:
    """Until its deadline."""
    call = _CURRENT.get(None)
    return math.inf if call is None else call.seconds_left()


def enter_call(call: Call) -> None:
    """Make it the running task's call."""
    _CURRENT.set(call)
