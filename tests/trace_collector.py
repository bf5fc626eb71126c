"""The receiving end of OTLP: keeps the spans that processes send."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Span:
    """One span, in plain values."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    kind: str
    failed: bool
    attributes: dict[str, Any]

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def holds(self, other: Span, slack_ns: int = 0) -> bool:
        return self.start_ns <= other.start_ns + slack_ns and other.end_ns <= self.end_ns + slack_ns


class Collector(pb_grpc.TraceServiceServicer):
    """Answers every export and keeps what it brought."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.messages: list[bytes] = []
        self._changed = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - named by OTLP
        with self._changed:
            self.messages.append(request.SerializeToString())
            for resource in request.resource_spans:
                service = _values(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [_span(service, span) for span in scope.spans]
            self._changed.notify_all()
        return pb.ExportTraceServiceResponse()

    def find(self, **wanted: Any) -> list[Span]:
        """Those whose fields are these, in order of their start."""
        with self._changed:
            found = [
                span
                for span in self.spans
                if all(getattr(span, name) == value for name, value in wanted.items())
            ]
        return sorted(found, key=lambda span: span.start_ns)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, "the spans did not come"
            with self._changed:
                self._changed.wait(min(left, 0.2))


def _span(service: str, span: Any) -> Span:
    return Span(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def running_collector() -> Generator[tuple[Collector, str]]:
    """A collector, and the URL to send to."""
    server = grpc.server(ThreadPoolExecutor(4))
    collector = Collector()
    stubs: Any = pb_grpc  # without types
    stubs.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
