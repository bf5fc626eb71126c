"""A channel whose calls are spans of the application's traces, for the sync and the async client.

Imported only where the application has OpenTelemetry. No interceptor of gRPC, since a call that
went through one of `grpc.aio` tells no remaining time, which taking up a stream needs.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, StatusCode

from headstream.client._async_exchange import at_once

if TYPE_CHECKING:
    from collections.abc import Callable


class TracedChannel:
    """The part of a channel that stubs use."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel, address: str) -> None:
        self._channel: Any = channel
        self._address = address
        is_async = isinstance(channel, grpc.aio.Channel)
        self._follow_unary = _follow_async if is_async else _follow_reply
        self._follow_stream = _follow_async if is_async else _follow_sync

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Callable[..., Any]:
        """A method with one answer."""
        invoke = self._channel.unary_unary(method, *args, **options)
        return self._traced(method, invoke, self._follow_unary)

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Callable[..., Any]:
        """A method whose answer is a stream."""
        invoke = self._channel.unary_stream(method, *args, **options)
        return self._traced(method, invoke, self._follow_stream)

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Callable[..., Any]:
        """A method with messages both ways."""
        invoke = self._channel.stream_stream(method, *args, **options)
        return self._traced(method, invoke, self._follow_stream)

    def _traced(
        self, method: str, invoke: Callable[..., Any], follow: Callable[[Any, _CallSpan], None]
    ) -> Callable[..., Any]:
        def begin(*args: Any, metadata: tuple[tuple[str, str], ...] = (), **options: Any) -> Any:
            span = _CallSpan(method.removeprefix("/"), self._address)
            try:
                call = invoke(*args, metadata=(*metadata, *span.headers()), **options)
            except BaseException as error:
                unknown = grpc.StatusCode.UNKNOWN
                span.end(error.code() if isinstance(error, grpc.Call) else unknown)
                raise
            follow(call, span)
            return call

        return begin


class _CallSpan:
    """The span of one call, below the one that is current where the call begins."""

    def __init__(self, method: str, address: str) -> None:
        service, _, name = method.rpartition("/")
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": name,
            "server.address": address,
        }
        tracer = trace.get_tracer("headstream.client")
        self._span = tracer.start_span(method, kind=SpanKind.CLIENT, attributes=attributes)

    def headers(self) -> list[tuple[str, str]]:
        """What tells the server of it: `traceparent`, or what else the application has chosen."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(self._span))
        return [(key.lower(), value) for key, value in carrier.items()]

    def end(self, code: grpc.StatusCode) -> None:
        """The call has ended so; what is said later does not count."""
        if not self._span.is_recording():
            return
        number: int = code.value[0]
        self._span.set_attribute("rpc.grpc.status_code", number)
        if code is not grpc.StatusCode.OK:
            self._span.set_attribute("error.type", code.name)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _follow_reply(reply: Any, span: _CallSpan) -> None:  # noqa: ARG001 - like the others
    """A reply is there: its call is over."""
    span.end(grpc.StatusCode.OK)


def _follow_sync(call: Any, span: _CallSpan) -> None:
    """Let the end of a call end its span; the call must still end when its reader forgets it."""
    reference = weakref.ref(call)

    def end() -> None:
        alive = reference()
        span.end(grpc.StatusCode.CANCELLED if alive is None else alive.code())

    if not call.add_callback(end):
        end()


def _follow_async(call: Any, span: _CallSpan) -> None:
    """The same; those who read such calls end them themselves."""

    def end(ended: grpc.aio.Call) -> None:
        span.end(at_once(ended.code()))

    call.add_done_callback(end)
