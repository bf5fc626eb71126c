"""A call with messages both ways, for the async client."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Coroutine

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")
ResultT = TypeVar("ResultT")

_OWN_DETAILS = "Internal error from Core"  # of the status that grpc.aio makes up
_STATUS_SECONDS = 5.0
_LOOK_SECONDS = 0.002


class AsyncExchange(Generic[RequestT, ReplyT]):
    """Messages out and in, and at the end the status that the server gave.

    When a write fails because the call has ended, grpc.aio makes up a status, INTERNAL without
    details. It may come just before the server's, which then takes its place, or just after it,
    and then only the callbacks of the call have seen the server's.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall[RequestT, ReplyT]) -> None:
        self._call = call
        # Not `call.read()`, which gives nothing more once there is a status.
        self._replies = aiter(call)
        self._status: grpc.aio.AioRpcError | None = None  # the server's, once it was seen
        call.add_done_callback(self._note_status)

    async def write(self, message: RequestT) -> bool:
        """Send a message; False if the call has ended, and then `read` says how."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True

    async def done_writing(self) -> None:
        """Send no more."""
        with contextlib.suppress(grpc.aio.InternalError):  # the call has ended
            await self._call.done_writing()

    async def read(self) -> ReplyT | None:
        """The next message; None: the call has ended well.

        Raises:
            AioRpcError: It has ended otherwise.
        """
        try:
            return await anext(self._replies)
        except (StopAsyncIteration, grpc.aio.AioRpcError):
            status = await self._final_status()
        if status.code() is not grpc.StatusCode.OK:
            raise status
        return None

    def cancel(self) -> None:
        """End the call, if it still lasts."""
        self._call.cancel()

    async def _final_status(self) -> grpc.aio.AioRpcError:
        """The server's, or the one that was made up if there is no other."""
        for _ in range(round(_STATUS_SECONDS / _LOOK_SECONDS)):
            self._note_status(self._call)
            if self._status is not None:
                return self._status
            await asyncio.sleep(_LOOK_SECONDS)
        return _status_of(self._call)

    def _note_status(self, call: grpc.aio.StreamStreamCall[RequestT, ReplyT]) -> None:
        status = _status_of(call)
        is_made_up = status.code() is grpc.StatusCode.INTERNAL and status.details() == _OWN_DETAILS
        if self._status is None and not is_made_up:
            self._status = status


def _status_of(call: grpc.aio.Call) -> grpc.aio.AioRpcError:
    """How a call has ended; OK is told as an error, too."""
    return grpc.aio.AioRpcError(
        at_once(call.code()),
        at_once(call.initial_metadata()),
        at_once(call.trailing_metadata()),
        at_once(call.details()),
    )


def at_once(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """What a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: ResultT = end.value
        return result
    raise AssertionError("it waits")
