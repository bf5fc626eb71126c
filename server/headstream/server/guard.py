"""One call from its arrival to its end: what the interceptor puts around a handler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import NoReturn, TypeVar

import grpc
import grpc.aio
import structlog

from headstream.access.failure import REQUEST_ID_KEY, to_trailers
from headstream.access.gate import Grant
from headstream.access.refusal import Refusal
from headstream.server.call import Call, enter_call
from headstream.server.context import Context, code_name, remaining, request_id
from headstream.server.engine.priority import Priority
from headstream.server.errors import (
    AccessRefused,
    DeadlineExceeded,
    Draining,
    EngineFault,
    EngineUnavailable,
    ServiceError,
    StreamCut,
)
from headstream.server.logs import audit
from headstream.server.patience import Patience
from headstream.server.policy import CallPolicy
from headstream.server.status import public_message

Result = TypeVar("Result")
_OWN_PREFIXES = ("/headstream.", "/inference.")
_REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"}

DEADLINE_SLACK_SECONDS = 0.2
"""What a request may take to arrive: by so much the caller's clock is ahead, or less."""
ABORT_SECONDS = 1.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.calls")


class Guard:
    """Runs one handler and turns whatever happens into a status within the closed table."""

    def __init__(
        self,
        policy: CallPolicy,
        method: str,
        context: Context,
        *,
        streaming: bool,
        session: bool = False,
    ) -> None:
        """``session``: a stream both ways, which bounds its own time and cannot go on elsewhere."""
        self._policy = policy
        self._context = context
        self._method = method
        self._own = method.startswith(_OWN_PREFIXES)  # health and reflection have no deadline
        self._session = session
        self._default = policy.stream_deadline if streaming else policy.unary_deadline
        self._call = Call(method.removeprefix("/"), request_id(context), streaming)
        self._task: asyncio.Task[object] | None = None
        self._grant = Grant()
        self._cut = False
        self._metadata_sent = False

    @property
    def endless(self) -> bool:
        """Whether the call is to health or reflection, or a session."""
        return not self._own or self._session

    def cut(self) -> None:
        """End the call from outside."""
        if self._task is not None:
            self._cut = True
            self._task.cancel()

    async def send_metadata(self) -> None:
        """Send the request id, as late as possible: once headers are sent nothing is retried."""
        if not self._metadata_sent and self._own:
            self._metadata_sent = True
            await self._context.send_initial_metadata(((REQUEST_ID_KEY, self._call.request_id),))

    async def write_all(self, replies: AsyncGenerator[object]) -> None:
        """Send the messages of a stream, and close it; a caller who does not read is left."""
        patience = Patience(self._policy.stalled_stream)
        # Closed here and now, not by the garbage collector: closing frees the sequences.
        async with patience.watch(), aclosing(replies):
            async for reply in replies:
                with patience.message():
                    await self.send_metadata()
                    await self._context.write(reply)
                self._call.started_output = True

    async def run(self, body: Callable[[], Awaitable[Result]]) -> Result:
        """The handler's result, or the status that its error means."""
        call, policy = self._call, self._policy
        enter_call(call)
        self._trace()
        self._task = asyncio.current_task()
        policy.open_calls.add(self)
        open_calls = policy.metrics.requests_open.labels(call.method)
        open_calls.inc()
        code = reason = "OK"
        try:
            return await self._bounded(body)
        except grpc.aio.AbortError:  # health has said its status itself
            code = reason = code_name(self._context)
            raise
        except BaseException as error:  # also of libraries in Rust: their panics are no Exception
            failure = self._classify(error)
            if failure is None:
                code = reason = self._cancel_name()
                raise
            code, reason = failure.code.name, failure.reason
            await self._abort(failure)
        finally:
            policy.open_calls.discard(self)
            open_calls.dec()
            self._grant.close(call.input_tokens + call.output_tokens)
            self._report(code, reason)

    def _trace(self) -> None:
        """Begin the call's span, and let its log lines tell which one it is."""
        tracing = self._policy.tracing
        if tracing is not None and self._own:
            metadata = self._context.invocation_metadata() or ()
            self._call.trace = tracing.begin(self._call, metadata)
            structlog.contextvars.bind_contextvars(**self._call.trace.ids)

    async def _bounded(self, body: Callable[[], Awaitable[Result]]) -> Result:
        if self._policy.draining and (self._own or self._call.streaming):
            raise Draining  # also of those who watch health: they would outlast any grace
        self._enter()
        left = remaining(self._context)
        if left is None and not self.endless:
            left = self._default
            body = partial(self._within_default, body)
        if left is not None:
            self._call.deadline_ns = time.perf_counter_ns() + round(left * 1e9)
        return await body()  # the caller's deadline cancels this task

    async def _within_default(self, body: Callable[[], Awaitable[Result]]) -> Result:
        timer = asyncio.timeout(self._default)
        try:
            async with timer:
                return await body()
        except TimeoutError:
            if timer.expired():
                raise DeadlineExceeded(self._default) from None
            raise

    def _enter(self) -> None:
        """Show the call's token."""
        metadata = self._context.invocation_metadata() or ()
        try:
            self._grant = self._policy.gate.admit(self._method, metadata)
        except Refusal as refusal:
            self._call.tenant = refusal.tenant
            raise AccessRefused(refusal) from None
        self._call.tenant = self._grant.tenant
        if self._grant.max_priority:
            self._call.max_priority = Priority[self._grant.max_priority.upper()]

    async def _abort(self, failure: ServiceError) -> NoReturn:
        request_id = self._call.request_id
        message = public_message(failure, request_id)
        trailers = to_trailers(failure, message, request_id)
        try:
            async with asyncio.timeout(ABORT_SECONDS):
                await self._context.abort(failure.code, message, trailers)
        except TimeoutError:
            # The status waits behind what the caller does not read; nobody here waits with it.
            raise asyncio.CancelledError from None

    def _classify(self, error: BaseException) -> ServiceError | None:
        """The status of an error; None for a cancellation, which must go on its way."""
        if isinstance(error, EngineFault):
            self._log_fault(error)
            return error
        can_go_on = self._call.started_output and not self._session
        if isinstance(error, EngineUnavailable) and can_go_on:
            return StreamCut()
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, GeneratorExit):
            return None
        task = self._task
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            if not self._cut:
                return None
            task.uncancel()
            return StreamCut() if can_go_on else Draining()
        self._log_fault(error)
        return EngineFault(str(error))

    def _log_fault(self, error: BaseException) -> None:
        call = self._call
        log.error("fault", request_id=call.request_id, method=call.method, exc_info=error)

    def _cancel_name(self) -> str:
        left = remaining(self._context)
        # The caller's clock started earlier than ours: its cancellation comes a little too soon.
        expired = left is not None and left < DEADLINE_SLACK_SECONDS
        return "DEADLINE_EXCEEDED" if expired else "CANCELLED"

    def _report(self, code: str, reason: str) -> None:
        call, metrics = self._call, self._policy.metrics
        seconds = call.elapsed_ns() / 1e9
        metrics.requests.labels(call.method, code).inc()
        metrics.request_seconds.labels(call.method).observe(seconds)
        if call.unfinished_sequences:
            why = "stop_string" if reason == "OK" else reason.lower()
            metrics.aborts.labels(call.model, why).inc(call.unfinished_sequences)
        if call.trace is not None:
            call.trace.end(call, code, reason)
        # Who is refused is told, whatever was asked for; probes of health are not worth a line.
        write = audit.info if self._own or code in _REFUSED else log.debug
        write(
            "call",
            request_id=call.request_id,
            method=call.method,
            tenant=call.tenant,
            peer=self._context.peer(),
            model=call.model,
            code=code,
            reason=reason,
            seconds=round(seconds, 6),
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            tensor_bytes=call.tensor_bytes,
        )
