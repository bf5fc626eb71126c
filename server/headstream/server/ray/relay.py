"""Calls that Ray's port took, passed on to the server in the same process.

The server keeps its interceptor, so limits, tokens, errors, metrics and the log are the same as
without Ray. A reply is asked for when Ray has sent the one before: who does not read holds up the
stream, down to the engine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from headstream.access.failure import REQUEST_ID_KEY

PASSED_KEYS = ("authorization", REQUEST_ID_KEY, "traceparent", "tracestate")
"""Of a call's metadata: what the server reads."""

Metadata = list[tuple[str, str | bytes]]


class RayContext(Protocol):
    """The parts of `ray.serve.grpc_util.RayServegRPCContext` that are used."""

    def invocation_metadata(self) -> Metadata:
        """What the caller sent."""
        ...

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status that follows the last reply."""

    def set_details(self, details: str) -> None:
        """Set its text."""

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Set what goes with it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A message as it came. Ray asks for its bytes, and for nothing else."""

    data: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802 - as protobuf names it
        """The bytes."""
        return self.data


class Relay:
    """A channel to the server of this process."""

    def __init__(self, address: str) -> None:
        # What a message may hold is bounded by the server.
        options = [("grpc.max_receive_message_length", -1)]
        # Any: typed without calls that pass bytes on.
        self._channel: Any = grpc.aio.insecure_channel(address, options=options)

    async def close(self) -> None:
        """End the calls."""
        await self._channel.close()

    async def call(self, path: str, request: Message, context: RayContext) -> Reply:
        """The one reply of ``/package.Service/Method``; empty if the call failed."""
        call = self._channel.unary_unary(path)(
            request.SerializeToString(), metadata=_metadata(context)
        )
        try:
            data: bytes = await call
            await _finish(call, context)
        except grpc.aio.AioRpcError as error:
            _fail(error, context)
            return Reply(b"")
        finally:
            call.cancel()  # of no effect on a call that is over
        return Reply(data)

    async def stream(
        self, path: str, request: Message | AsyncIterable[Message], context: RayContext
    ) -> AsyncGenerator[Reply]:
        """The replies to one request, or to a stream of them."""
        metadata = _metadata(context)
        call = (
            self._channel.unary_stream(path)(request.SerializeToString(), metadata=metadata)
            if isinstance(request, Message)
            else self._channel.stream_stream(path)(_each(request), metadata=metadata)
        )
        try:
            async for data in call:
                yield Reply(data)
            await _finish(call, context)
        except grpc.aio.AioRpcError as error:
            _fail(error, context)
        finally:
            call.cancel()


async def _each(requests: AsyncIterable[Message]) -> AsyncGenerator[bytes]:
    async for request in requests:
        yield request.SerializeToString()


def _metadata(context: RayContext) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(item for item in context.invocation_metadata() if item[0] in PASSED_KEYS)


async def _finish(call: Any, context: RayContext) -> None:
    """Ray sends no headers of ours before the first reply: the request id goes behind the last."""
    context.set_trailing_metadata([*await call.initial_metadata(), *await call.trailing_metadata()])


def _fail(error: grpc.aio.AioRpcError, context: RayContext) -> None:
    """The failure as the server told it. Ray drops the trailers of one that is raised."""
    context.set_code(error.code())
    context.set_details(error.details() or "")
    context.set_trailing_metadata(list(error.trailing_metadata() or ()))
