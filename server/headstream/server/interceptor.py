"""Around every call: request id, deadline, errors to status, metrics, and one log line.

The one place where policy lives, so that services only translate, submit and yield.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from headstream.server.context import Context
from headstream.server.errors import MalformedRequest, NotServed, ReplyTooLarge
from headstream.server.guard import Guard
from headstream.server.policy import CallPolicy
from headstream.server.wire.bulk import serialize

CANCEL_SECONDS = 0.01
"""How long a cancellation may take to follow the end of the messages, which it brings about too.

Mostly it is less than 0.5 ms. Who waits does not take it for the end of what there was to say.
"""

TRequest = TypeVar("TRequest")
TResponse = TypeVar("TResponse")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler in a :class:`Guard`.

    Handlers get bytes and parse them inside the guard, because gRPC itself answers UNKNOWN to
    bytes it cannot parse.
    """

    def __init__(self, policy: CallPolicy) -> None:
        self.policy = policy

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails],
            Awaitable[grpc.RpcMethodHandler[TRequest, TResponse] | None],
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[TRequest, TResponse] | None:
        """The handler of a call, wrapped."""
        handler = await continuation(handler_call_details)
        # An older grpcio asks for methods nobody registered, too, and answers UNIMPLEMENTED itself.
        if handler is None:
            self.policy.count_unknown_method()
            return None
        method = handler_call_details.method
        to_bytes: Any = serialize
        parse = handler.request_deserializer
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(method, handler.stream_stream, parse, many=True),
                response_serializer=to_bytes,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream, parse, many=False),
                response_serializer=to_bytes,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary, parse),
            response_serializer=handler.response_serializer,
        )

    def _unary(self, method: str, behavior: Any, parse: Any) -> Any:
        async def run(data: bytes, context: Context) -> Message:
            guard = Guard(self.policy, method, context, streaming=False)

            async def body() -> Message:
                _refuse_generated(method, behavior)
                reply: Message = await behavior(_parse(parse, data), context)
                self._check_size(reply)
                await guard.send_metadata()
                return reply

            return await guard.run(body)

        return run

    def _stream(self, method: str, behavior: Any, parse: Any, *, many: bool) -> Any:
        async def run(data: Any, context: Context) -> None:
            guard = Guard(self.policy, method, context, streaming=True, session=many)

            async def body() -> None:
                _refuse_generated(method, behavior)
                request = _parse_all(parse, data) if many else _parse(parse, data)
                if inspect.iscoroutinefunction(behavior):  # health: writes for itself
                    await behavior(request, context)
                    return
                await guard.write_all(behavior(request, context))
                await guard.send_metadata()

            await guard.run(body)

        return run

    def _check_size(self, reply: Message) -> None:
        size, limit = reply.ByteSize(), self.policy.max_message_bytes
        if size > limit:
            raise ReplyTooLarge(size, limit, "the reply")


def _refuse_generated(method: str, behavior: Any) -> None:
    """Methods that no service of ours fills in are plain functions of the generated base class."""
    if not (inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior)):
        raise NotServed(f"{method.removeprefix('/')}: not served by this server")


def _parse(parse: Any, data: bytes) -> Message:
    try:
        message: Message = parse(data)
    except DecodeError:
        raise MalformedRequest from None
    return message


async def _parse_all(parse: Any, messages: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    async for data in messages:
        yield _parse(parse, data)
    await asyncio.sleep(CANCEL_SECONDS)
