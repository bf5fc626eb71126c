"""How a call that is written to has ended, as the server has told it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Coroutine

ResultT = TypeVar("ResultT")


class FirstStatus:
    """The first status that a call has.

    A write that is under way when the server ends the call fails behind that, and grpc.aio then
    puts an INTERNAL of its own in the place of the server's status (grpc/grpc#36066). Where the
    write fails before answers are read that came first, this INTERNAL is all there is.
    """

    def __init__(self) -> None:
        self._status: tuple[grpc.StatusCode, grpc.aio.Metadata, str] | None = None

    def watch(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        """Take that of a call."""
        call.add_done_callback(lambda _: self._keep(call))

    def told(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What a call should have raised instead of the error."""
        if self._status is None:
            return error
        code, trailers, message = self._status
        return grpc.aio.AioRpcError(code, error.initial_metadata(), trailers, message)

    def _keep(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        if self._status is None:
            self._status = (
                _now(call.code()),
                _now(call.trailing_metadata()),
                _now(call.details()),
            )


def _now(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of a coroutine that has nothing to wait for: a task would run too late."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: ResultT = done.value
        return result
    coroutine.close()
    raise RuntimeError("a call is done and does not know how")
