"""Around every call: a request id, errors to status, and one log line."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from headstream.lookup.errors import LookupFailure

DOMAIN = "headstream"
REQUEST_ID_KEY = "x-request-id"
DETAILS_KEY = "grpc-status-details-bin"
_OWN_PREFIX = "/headstream."

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.lookup")


class Malformed(LookupFailure):
    """The bytes are not the message the method takes."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "MALFORMED_MESSAGE"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the unary methods of this service; health and reflection are left alone.

    They get bytes and parse them here: gRPC itself answers UNKNOWN to bytes it cannot parse.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call, wrapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_OWN_PREFIX):
            return handler
        return grpc.unary_unary_rpc_method_handler(
            _guarded(method.removeprefix("/"), handler.unary_unary, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _guarded(method: str, behavior: Any, parse: Any) -> Any:
    async def run(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        request_id, start, code = uuid.uuid4().hex, time.monotonic(), "OK"
        try:
            reply: Message = await behavior(_parse(parse, data), context)
        except LookupFailure as failure:
            code = failure.code.name
            await _abort(context, failure, str(failure), request_id)
        except Exception as error:
            code = grpc.StatusCode.INTERNAL.name
            log.exception("fault", request_id=request_id, method=method, exc_info=error)
            message = f"internal error; request id {request_id}"
            await _abort(context, LookupFailure(message), message, request_id)
        else:
            return reply
        finally:
            seconds = round(time.monotonic() - start, 6)
            log.info("call", request_id=request_id, method=method, code=code, seconds=seconds)

    return run


def _parse(parse: Any, data: bytes) -> Message:
    try:
        message: Message = parse(data)
    except DecodeError:
        raise Malformed("the request is not a valid message of this method") from None
    return message


async def _abort(
    context: grpc.aio.ServicerContext[Any, Any],
    failure: LookupFailure,
    message: str,
    request_id: str,
) -> NoReturn:
    info = error_details_pb2.ErrorInfo(
        reason=failure.reason, domain=DOMAIN, metadata={"request_id": request_id}
    )
    number: int = failure.code.value[0]
    status = status_pb2.Status(code=number, message=message)
    for detail in (info, *failure.details()):
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    trailers = ((DETAILS_KEY, status.SerializeToString()), (REQUEST_ID_KEY, request_id))
    await context.abort(failure.code, message, trailers)
