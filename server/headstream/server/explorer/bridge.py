"""From JSON to gRPC and back: calls of the server's own services over a socket of their own.

A call goes through the interceptor like everybody's, so limits, admission, deadlines, metrics and
the log are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import tempfile
from collections.abc import AsyncGenerator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict, MessageToJson, Parse, ParseError
from google.protobuf.message import Message
from google.rpc import status_pb2

from headstream.access import call_server
from headstream.access.failure import DETAILS_KEY
from headstream.server.explorer.methods import Method, passed_methods

Code = grpc.StatusCode

_HTTP_OF_CODE = {
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}


class BridgeError(Exception):
    """A call failed; the message is what the caller reads."""

    def __init__(
        self, code: grpc.StatusCode, message: str, status: status_pb2.Status | None = None
    ) -> None:
        super().__init__(message)
        self.http_status = _HTTP_OF_CODE.get(code, HTTPStatus.INTERNAL_SERVER_ERROR)
        number: int = code.value[0]
        self._status = status or status_pb2.Status(code=number, message=message)

    def line(self) -> bytes:
        """``{"error": google.rpc.Status}`` and a line's end."""
        return json.dumps({"error": MessageToDict(self._status)}).encode() + b"\n"


class Bridge:
    """Calls the services of one server."""

    def __init__(self) -> None:
        self._methods = passed_methods()
        self._directory = tempfile.TemporaryDirectory(prefix="headstream-")  # ours alone (0700)
        self._sockets = itertools.count(1)
        self._channel: grpc.aio.Channel | None = None
        self._leaving: set[asyncio.Task[None]] = set()  # channels to servers before this one

    def attach(self, server: grpc.aio.Server) -> None:
        """Have the server, not yet started, listen to the bridge, which calls no other any more.

        Each has a socket of its own: one that ends removes that, also after the next has begun.
        """
        target = f"unix:{Path(self._directory.name) / f'{next(self._sockets)}.sock'}"
        server.add_insecure_port(target)
        if self._channel is not None:
            leaving = asyncio.create_task(self._channel.close(call_server.NO_END))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        # What a message may hold is bounded by the server.
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(target, options=options)

    async def close(self) -> None:
        """End the calls and remove the socket."""
        leaving = list(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
        self._directory.cleanup()

    async def call(self, name: str, body: bytes) -> AsyncGenerator[bytes]:
        """The replies of ``package.Service/Method``, each a line of JSON.

        Raises:
            BridgeError: The method is not passed on, the body is not its request, or it failed.
        """
        method = self._methods.get(name)
        if method is None:
            raise BridgeError(Code.UNIMPLEMENTED, f"{name}: not a method of the explorer")
        request = await asyncio.to_thread(_parse, method, body)
        replies = self._call(method, request)
        try:
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    yield await asyncio.to_thread(_line, reply)
        except grpc.aio.AioRpcError as error:
            raise _read_status(error) from None

    async def _call(self, method: Method, request: Message) -> AsyncGenerator[Message]:
        assert self._channel is not None
        channel: Any = self._channel  # typed without the serializers of messages made at run time
        make = channel.unary_stream if method.streaming else channel.unary_unary
        stub = make(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        call = stub(request)
        try:
            if method.streaming:
                async for reply in call:
                    yield reply
            else:
                yield await call
        finally:
            call.cancel()  # of no effect on a call that is over


def _parse(method: Method, body: bytes) -> Message:
    try:
        return Parse(body, method.request())
    except (ParseError, UnicodeDecodeError) as error:
        message = f"the body is not a {method.request.DESCRIPTOR.full_name} in JSON: {error}"
        raise BridgeError(Code.INVALID_ARGUMENT, message) from None


def _line(reply: Message) -> bytes:
    text = MessageToJson(reply, always_print_fields_with_no_presence=True, indent=None)
    return text.encode() + b"\n"


def _read_status(error: grpc.aio.AioRpcError) -> BridgeError:
    """The failure as the server told it, details included."""
    message = error.details() or error.code().name
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return BridgeError(error.code(), message, status_pb2.Status.FromString(value))
    return BridgeError(error.code(), message)
