"""Around every call: a request id, errors to status, and one log line."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message

from headstream.access.failure import to_trailers
from headstream.access.gate import Gate, Grant
from headstream.access.refusal import Refusal
from headstream.lookup.errors import AccessRefused, MalformedRequest, ServiceError

_OWN_PREFIX = "/headstream."

Context = grpc.aio.ServicerContext[Any, Any]

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.lookup")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the unary methods of this service, and asks for tokens; health is left alone.

    Handlers get bytes and parse them here: gRPC itself answers UNKNOWN to bytes it cannot parse.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call, wrapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        if method.startswith(_OWN_PREFIX):
            return grpc.unary_unary_rpc_method_handler(
                self._guarded(
                    method.removeprefix("/"), handler.unary_unary, handler.request_deserializer
                ),
                response_serializer=handler.response_serializer,
            )
        try:
            self._gate.admit(method, handler_call_details.invocation_metadata or ()).close()
        except Refusal as refusal:
            return grpc.stream_stream_rpc_method_handler(_refusing(method, refusal))
        return handler

    def _guarded(self, method: str, behavior: Any, parse: Any) -> Any:
        async def run(data: bytes, context: Context) -> Message:
            call = _Call(method, context)
            grant = Grant()
            try:
                grant = self._enter(call)
                reply: Message = await behavior(_parse(parse, data), context)
            except ServiceError as failure:
                call.code, call.reason = failure.code.name, failure.reason
                await _abort(context, failure, call.request_id)
            except asyncio.CancelledError:
                call.code = call.reason = grpc.StatusCode.CANCELLED.name
                raise
            except Exception:
                call.code = call.reason = grpc.StatusCode.INTERNAL.name
                log.exception("fault", request_id=call.request_id, method=call.method)
                message = f"internal error; request id {call.request_id}"
                await _abort(context, ServiceError(message), call.request_id)
            else:
                return reply
            finally:
                grant.close()
                call.report()

        return run

    def _enter(self, call: _Call) -> Grant:
        """Show the call's token."""
        try:
            grant = self._gate.admit(f"/{call.method}", call.context.invocation_metadata() or ())
        except Refusal as refusal:
            call.tenant = refusal.tenant
            raise AccessRefused(refusal) from None
        call.tenant = grant.tenant
        return grant


@dataclass(slots=True)
class _Call:
    """What the log tells of a call."""

    method: str
    context: Context
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    start: float = field(default_factory=time.monotonic)
    tenant: str = ""
    code: str = "OK"
    reason: str = "OK"

    def report(self) -> None:
        """Write the line."""
        log.info(
            "call",
            request_id=self.request_id,
            method=self.method,
            tenant=self.tenant,
            peer=self.context.peer(),
            code=self.code,
            reason=self.reason,
            seconds=round(time.monotonic() - self.start, 6),
        )


def _refusing(method: str, refusal: Refusal) -> Any:
    """A handler that lets nobody in."""

    async def run(_: object, context: Context) -> None:
        call = _Call(method.removeprefix("/"), context)
        call.tenant, call.code, call.reason = refusal.tenant, refusal.code.name, refusal.reason
        call.report()
        await _abort(context, AccessRefused(refusal), call.request_id)

    return run


def _parse(parse: Any, data: bytes) -> Message:
    try:
        message: Message = parse(data)
    except DecodeError:
        raise MalformedRequest from None
    return message


async def _abort(context: Context, failure: ServiceError, request_id: str) -> NoReturn:
    trailers = to_trailers(failure, failure.message, request_id)
    await context.abort(failure.code, failure.message, trailers)
