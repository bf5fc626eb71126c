"""Traces: spans of the calls, sent to a collector by OTLP over gRPC. Needs the extra ``otel``.

The only module besides :mod:`call_trace` that imports OpenTelemetry, and imported only where an
endpoint is set: its SDK reads the OTEL_* variables then, and nothing is paid for it otherwise.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import structlog
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from headstream.server.call_trace import CallTrace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headstream.server.call import Call

FLUSH_SECONDS = 2.0
"""At the end, for the spans that are not sent yet."""
_CANCEL_SECONDS = 1.0
_COMPLAINT_SECONDS = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.tracing")


class Tracing:
    """Sends what calls tell. A collector that is away costs spans, never calls."""

    def __init__(self, endpoint: str) -> None:
        """``endpoint``: ``http://HOST:PORT`` or ``https://HOST:PORT`` of an OTLP collector."""
        self._complaints = _Complaints()
        logging.getLogger("opentelemetry").addHandler(self._complaints)
        # What the variables say of the service wins.
        resource = Resource.create({"service.name": "headstream"})
        self._provider = TracerProvider(
            resource=resource.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._exporter = OTLPSpanExporter(endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("headstream.server")

    def begin(self, call: Call, metadata: Iterable[tuple[str, str | bytes]]) -> CallTrace:
        """The span of a call that has arrived, below the one that its metadata names."""
        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        return CallTrace(self._tracer, propagate.extract(carrier), call)

    def close(self) -> None:
        """Send what is left, for a bounded time; blocks."""
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)
        if flushing.is_alive():
            self._exporter.shutdown()  # cancels what is under way
            flushing.join(_CANCEL_SECONDS)
        logging.getLogger("opentelemetry").removeHandler(self._complaints)


class _Complaints(logging.Handler):
    """The exporter's errors as lines of our log, few of them: a dead collector is no news twice."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._quiet_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR and not str(record.msg).startswith("Queue full"):
            return  # warnings may quote values of headers
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _COMPLAINT_SECONDS
            log.error("spans are lost", error=record.getMessage())
