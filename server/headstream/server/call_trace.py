"""The spans of one call: its own, and those of what the engine told about its sequences."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

    from headstream.server.call import Call
    from headstream.server.engine.messages import Milestone
    from headstream.server.engine.stream import Event, SequenceStream

MAX_SEQUENCES = 16
"""Of one call, whose spans are sent: a bulk stream has as many sequences as it has texts."""

# Codes that are the server's fault, by the conventions of OpenTelemetry; others are the caller's.
_FAULTS = frozenset(
    {
        "UNKNOWN",
        "DEADLINE_EXCEEDED",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
    }
)


class CallTrace:
    """The span of a call, from its arrival to :meth:`end`."""

    def __init__(self, tracer: Tracer, parent: Context, call: Call) -> None:
        """``parent``: the caller's span, if it told one; what it says of sampling holds."""
        self._tracer = tracer
        # From the clock of the engine, which only goes forward, to that of spans.
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        service, _, method = call.method.rpartition("/")
        self._span = tracer.start_span(
            call.method,
            parent,
            SpanKind.SERVER,
            {
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "headstream.request_id": call.request_id,
            },
        )
        self._context = trace.set_span_in_context(self._span, parent)
        self._num_sequences = 0

    @property
    def ids(self) -> dict[str, str]:
        """Of the trace and the span, as log lines tell them."""
        context = self._span.get_span_context()
        return {
            "trace_id": trace.format_trace_id(context.trace_id),
            "span_id": trace.format_span_id(context.span_id),
        }

    def follow(self, stream: SequenceStream) -> SequenceTrace | None:
        """The spans of one sequence of the call; None: nobody wants them."""
        if not self._span.is_recording():
            return None
        self._num_sequences += 1
        if self._num_sequences > MAX_SEQUENCES:
            return None
        return SequenceTrace(self, self._num_sequences - 1, stream.submitted_ns)

    def add(
        self, name: str, start_ns: int, end_ns: int, *, failed: bool, **attributes: int | str
    ) -> None:
        """A span within the call; its times are by the engine's clock."""
        named = {f"headstream.{key}": value for key, value in attributes.items()}
        span = self._tracer.start_span(
            name, self._context, attributes=named, start_time=self._epoch_ns + start_ns
        )
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(self._epoch_ns + end_ns)

    def end(self, call: Call, code: str, reason: str) -> None:
        """The call has ended; what the log tells of it."""
        span = self._span
        number: int = grpc.StatusCode[code].value[0]
        told: dict[str, str | int] = {
            "rpc.grpc.status_code": number,
            "gen_ai.request.model": call.model,
            "gen_ai.usage.input_tokens": call.input_tokens,
            "gen_ai.usage.output_tokens": call.output_tokens,
            "headstream.reason": reason,
            "headstream.tenant": call.tenant,
            "headstream.sequences": self._num_sequences,
        }
        span.set_attributes({name: value for name, value in told.items() if value != ""})
        if code in _FAULTS:
            span.set_attribute("error.type", code)
            span.set_status(StatusCode.ERROR, reason)
        span.end()


class SequenceTrace:
    """One sequence: how long it waited, read its prompt, and generated.

    All times but that of its submission are the engine's own, told with its news. What is cut off
    ends when it is left.
    """

    def __init__(self, call: CallTrace, index: int, submitted_ns: int) -> None:
        self._call = call
        self._index = index  # in the call
        self._submitted_ns = submitted_ns
        self._milestone: Milestone | None = None
        self._told_ns = 0  # end of the step of the last news
        self._read_ns = 0  # the same of the first token, or the first row of a session
        self._num_tokens = 0
        self._finish = ""

    async def read(self, stream: SequenceStream) -> AsyncGenerator[Event]:
        """The events of the sequence. Closing the generator makes its spans."""
        try:
            async for event in stream:
                self._observe(event)
                yield event
        finally:
            self._end()

    def _observe(self, event: Event) -> None:
        milestone = self._milestone = event.milestone or self._milestone
        if milestone is not None:
            self._told_ns = milestone.first_step_ns + event.compute_ns
        self._num_tokens += event.token is not None
        self._finish = event.finish or ""
        if not self._read_ns and (event.token is not None or event.logit_rows):
            self._read_ns = self._told_ns

    def _end(self) -> None:
        end_ns = self._told_ns if self._finish and self._told_ns else time.monotonic_ns()
        failed = self._finish == "error"
        add = partial(self._call.add, sequence=self._index)
        milestone = self._milestone
        if milestone is None:
            add("queue", self._submitted_ns, end_ns, failed=failed)
            return
        generated = bool(self._num_tokens) and end_ns > self._read_ns
        add("queue", self._submitted_ns, milestone.first_step_ns, failed=False)
        add(
            "prefill",
            milestone.first_step_ns,
            self._read_ns or end_ns,
            failed=failed and not generated,
            steps=milestone.prompt_steps,
            cached_tokens=milestone.cached_tokens,
        )
        if generated:
            add(
                "decode",
                self._read_ns,
                end_ns,
                failed=failed,
                tokens=self._num_tokens,
                preemptions=milestone.preemptions,
                finish=self._finish or "left",
            )
