"""grpc.aio's server, which nobody's call can end.

grpc.aio takes all calls in one task, and there it decodes the path of each call to a method that is
not registered. A path that is no UTF-8 ends the task, and with it the port (grpcio 1.85). All
methods of this project are registered, so calls of others are refused before that.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import grpc
import grpc.aio

# Any: no types are published for it.
_cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")

NO_END = 1e8
"""Seconds that calls of a server that has ended may go on: as long as they would have."""

_Plain: Any = _cygrpc.AioServer
_replacing = threading.Lock()
"""Held while another class is in its place, which all threads would see."""

_CAN_REFUSE = hasattr(_Plain, "_request_registered_call")
"""An older grpcio takes the registered calls where it takes the others, and refuses none apart."""


class _Core(_Plain):  # type: ignore[misc]  # it has no types
    """What is below grpc.aio's server. The methods with an underscore are those it calls itself."""

    def __init__(self, on_unknown: Callable[[], None], *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.taking: asyncio.Task[Any] | None = None  # the task that takes calls
        self._on_unknown = on_unknown
        self._refusals: set[asyncio.Task[None]] = set()

    async def _server_main_loop(self, started: Any) -> None:
        self.taking = asyncio.current_task()
        await super()._server_main_loop(started)

    async def _request_call(self) -> Any:
        """The next call of a method that is not registered."""
        while True:
            call = cast("Any", await super()._request_call())
            if not _CAN_REFUSE:
                return call
            self._on_unknown()
            refusal = asyncio.create_task(_refuse(call))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)


async def _refuse(call: Any) -> None:
    context = _cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())  # noqa: SLF001
    with contextlib.suppress(Exception):  # it says so that it is over, or that the caller has left
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def make_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    options: Sequence[tuple[str, int]],
    on_unknown: Callable[[], None],
) -> grpc.aio.Server:
    """A server for registered methods (as generated code registers them), not yet listening.

    Args:
        interceptors: Around each call of a method that there is.
        options: Arguments of gRPC.
        on_unknown: Told of each call of a method that there is not, which is answered by
            UNIMPLEMENTED. Interceptors do not see it.
    """
    with _replacing:
        _cygrpc.AioServer = partial(_Core, on_unknown)  # the other arguments are grpc.aio's own
        try:
            return grpc.aio.server(interceptors=interceptors, options=options)
        finally:
            _cygrpc.AioServer = _Plain


async def start(server: grpc.aio.Server) -> asyncio.Future[Any]:
    """Take calls from now on; the result is done when no more are taken, whatever calls still run.

    ``wait_for_termination`` waits for these, too.
    """
    await server.start()
    core = cast("Any", server)._server  # noqa: SLF001
    taking = cast("asyncio.Future[Any] | None", core.taking)
    return taking or asyncio.ensure_future(server.wait_for_termination())


async def discard(server: grpc.aio.Server) -> None:
    """Let go of what a server is bound to that was never started: only so does it close that."""
    await server.start()
    await stop(server, None)


async def stop(server: grpc.aio.Server, grace: float | None) -> None:
    """Take no more calls; those that run may take ``grace`` seconds."""
    task = asyncio.current_task()
    try:
        await server.stop(grace)
    except Exception:  # it tells once what has ended the task that takes calls, instead of waiting
        await server.stop(grace)
    except asyncio.CancelledError:  # also that it was cancelled; unless that is meant for this one
        if task is None or task.cancelling():
            raise
        await server.stop(grace)
