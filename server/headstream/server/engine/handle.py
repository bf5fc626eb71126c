"""The front's end of the engine: starts it, hands it sequences, spreads its news."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Unpack, cast

import msgspec
import structlog
import zmq
import zmq.asyncio

from headstream.model.outputs import WireDtype
from headstream.server.engine.branch import Branch
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.events import to_event, to_tensor
from headstream.server.engine.launcher import EngineProcess, EngineThread
from headstream.server.engine.messages import (
    Abort,
    Failed,
    Flow,
    Fork,
    FromEngine,
    Loading,
    Lookup,
    LookupReply,
    Ready,
    Shutdown,
    Sibling,
    StepReport,
    StepStats,
    Submit,
    SubmitOptions,
    ToEngine,
    Vocabulary,
)
from headstream.server.engine.state import EngineState
from headstream.server.engine.stream import SequenceStream, WireTensor
from headstream.server.errors import EngineFault, EngineStartError, EngineUnavailable

_STOP_SECONDS = 5.0
_LAST_WORDS_SECONDS = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.engine")


class EngineHandle:
    """One engine. Everything here runs on the event loop that called :meth:`start`."""

    def __init__(self, config: EngineConfig, *, in_process: bool = False) -> None:
        """``in_process``: the engine is a thread of this process, for tests and notebooks."""
        self.config = config
        self.state = EngineState.LOADING
        self.ready: Ready | None = None
        self.stats: StepStats | None = None
        self._runs = EngineThread() if in_process else EngineProcess()
        self._ids = itertools.count(1)
        self._streams: dict[int, SequenceStream] = {}
        self._lookups: dict[int, asyncio.Future[WireTensor]] = {}
        self._listeners: list[Callable[[StepReport], None]] = []
        self._state_callbacks: list[Callable[[EngineState], None]] = []
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._on_progress: Callable[[Loading], None] = lambda _: None
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: zmq.asyncio.Socket | None = None  # until it is started

    async def start(self, on_progress: Callable[[Loading], None] = lambda _: None) -> None:
        """Launch the engine and wait until its model is loaded; also again, when it has ended.

        Raises:
            EngineStartError: the model cannot be loaded, or the engine died.
        """
        if self._socket is not None:
            await self._release(self._socket)
        self._on_progress = on_progress
        self._set_state(EngineState.LOADING)
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            socket = await self._launch()
        except (OSError, zmq.ZMQError) as error:  # no memory, no files, no room
            self._runs.kill()
            self._set_state(EngineState.FAILED)
            raise EngineStartError(f"the engine cannot be started: {error}") from error
        reader = asyncio.create_task(self._read(socket), name="engine-reader")
        self._tasks = [reader, asyncio.create_task(self._watch(reader), name="engine-watcher")]
        await self._started

    async def _launch(self) -> zmq.asyncio.Socket:
        self._directory = tempfile.mkdtemp(prefix="headstream-")
        address = f"ipc://{self._directory}/engine"
        self._socket = socket = zmq.asyncio.Context.instance().socket(zmq.PAIR)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.bind(address)
        await self._runs.launch(self.config, address)
        return socket

    async def stop(self) -> None:
        """End the engine; sequences still running fail. Without a start there is nothing to do."""
        self._set_state(EngineState.STOPPED)
        if self._socket is None:
            return
        self._send(Shutdown())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._runs.wait(), _STOP_SECONDS)
        await self._release(self._socket)

    async def _release(self, socket: zmq.asyncio.Socket) -> None:
        """Free what belongs to an engine that has ended, or ends now."""
        self._runs.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_all()
        socket.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def submit(self, token_ids: Sequence[int], **options: Unpack[SubmitOptions]) -> SequenceStream:
        """Hand over a sequence: the only crossing in.

        Raises:
            EngineUnavailable: the engine is not serving.
        """
        return self.submit_all(token_ids, (), **options)[0]

    def submit_all(
        self,
        token_ids: Sequence[int],
        sibling_seeds: Sequence[int],
        **options: Unpack[SubmitOptions],
    ) -> list[SequenceStream]:
        """Hand over several continuations of one prompt; all but the first have seeds of their own.

        Raises:
            EngineUnavailable: the engine is not serving.
        """
        sequence_id, stream = self._new_stream()
        others = [self._new_stream() for _ in sibling_seeds]
        siblings = tuple(
            Sibling(sibling_id, seed)
            for (sibling_id, _), seed in zip(others, sibling_seeds, strict=True)
        )
        self._send(Submit(sequence_id, tuple(token_ids), siblings=siblings, **options))
        return [stream, *(other for _, other in others)]

    def open_branch(self, token_ids: Sequence[int], **options: Unpack[SubmitOptions]) -> Branch:
        """Begin a decoding session; its first branch, of at most ``max_new_tokens`` more.

        Raises:
            EngineUnavailable: the engine is not serving.
        """
        sequence_id, stream = self._new_stream()
        self._send(Submit(sequence_id, tuple(token_ids), branch=True, **options))
        return Branch(sequence_id, stream, self._send, self._fork)

    def _fork(self, branch_id: int) -> Branch:
        sequence_id, stream = self._new_stream()
        self._send(Fork(branch_id, sequence_id))
        return Branch(sequence_id, stream, self._send, self._fork)

    def _new_stream(self) -> tuple[int, SequenceStream]:
        self._require_serving()
        sequence_id = next(self._ids)
        stream = self._streams[sequence_id] = SequenceStream(
            on_leave=partial(self._leave, sequence_id),
            on_flow=lambda credit_bytes: self._send(Flow(sequence_id, credit_bytes)),
        )
        return sequence_id, stream

    def teach(self, vocabulary: Vocabulary) -> None:
        """Tell the engine the bytes of all tokens; until then it refuses grammars."""
        self._send(vocabulary)

    async def lookup(self, token_ids: Sequence[int], dtype: WireDtype) -> WireTensor:
        """Rows of E for ``token_ids``: [n, d].

        Raises:
            EngineUnavailable, EngineFault: the engine is not serving, or could not answer.
        """
        self._require_serving()
        lookup_id = next(self._ids)
        future: asyncio.Future[WireTensor] = asyncio.get_running_loop().create_future()
        self._lookups[lookup_id] = future
        self._send(Lookup(lookup_id, tuple(token_ids), dtype))
        try:
            return await future
        finally:
            del self._lookups[lookup_id]

    def add_listener(self, listener: Callable[[StepReport], None]) -> None:
        """Call ``listener`` with every step's report and every heartbeat."""
        self._listeners.append(listener)

    def on_state(self, callback: Callable[[EngineState], None]) -> None:
        """Call ``callback`` whenever the state changes."""
        self._state_callbacks.append(callback)

    def _require_serving(self) -> None:
        if self.state is not EngineState.SERVING:
            raise EngineUnavailable(f"the engine of model {self.config.name!r} is not serving")

    def _set_state(self, state: EngineState) -> None:
        if state is not self.state:
            self.state = state
            for callback in self._state_callbacks:
                callback(state)

    def _leave(self, sequence_id: int) -> None:
        """The reader is gone before the end."""
        if self._streams.pop(sequence_id, None) is not None:
            self._send(Abort(sequence_id))

    def _send(self, message: ToEngine) -> None:
        if self._socket is None or self._socket.closed:
            return  # a reader that leaves after the engine has ended
        # Done at once, as the queue is unbounded, or refused: nobody is there, which is watched.
        sent = self._socket.send(self._encoder.encode(message), flags=zmq.NOBLOCK)
        fault = cast("asyncio.Future[object]", sent).exception()
        if fault is not None and not isinstance(fault, zmq.Again):
            raise fault

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            head, *frames = await socket.recv_multipart()
            message: FromEngine = self._decoder.decode(head)
            match message:
                case StepReport() as report:
                    self._take_report(report, frames)
                case LookupReply() as reply:
                    self._take_lookup(reply, frames)
                case Loading() as loading:
                    self._on_progress(loading)
                case Ready() as ready:
                    self.ready = ready
                    self._set_state(EngineState.SERVING)
                    if not self._started.done():  # who waited for it may have left
                        self._started.set_result(None)
                case Failed(message=reason):
                    self._fail_start(reason)

    def _take_report(self, report: StepReport, frames: list[bytes]) -> None:
        self.stats = report.stats
        for listener in self._listeners:
            listener(report)
        for delta in report.deltas:
            stream = self._streams.get(delta.id)
            if stream is None:  # aborted while this step ran, or a sibling before it began
                if delta.finish is None:
                    self._send(Abort(delta.id))
                continue
            if delta.finish == "error":  # any other end lies in the request, and its caller is told
                log.error("sequence failed", model=self.config.name, error=delta.error)
            stream.put(to_event(delta, frames))
            if delta.finish is not None:
                del self._streams[delta.id]

    def _take_lookup(self, reply: LookupReply, frames: list[bytes]) -> None:
        future = self._lookups.get(reply.id)
        if future is None or future.done():
            return
        if reply.rows is None:
            log.error("lookup failed", model=self.config.name, error=reply.error)
            future.set_exception(EngineFault("the lookup failed"))
        else:
            future.set_result(to_tensor(reply.rows, frames))

    async def _watch(self, reader: asyncio.Task[None]) -> None:
        """The engine's end is everybody's end, and so is that of the reader of its news."""
        ended = asyncio.create_task(self._runs.wait(), name="engine-end")
        await asyncio.wait({ended, reader}, return_when=asyncio.FIRST_COMPLETED)
        if reader.done() and not reader.cancelled() and (fault := reader.exception()) is not None:
            log.error("engine reader failed", model=self.config.name, error=repr(fault))
        self._runs.kill()
        await ended
        await asyncio.wait({self._started}, timeout=_LAST_WORDS_SECONDS)  # they may be on their way
        self._fail_start("the engine ended before it was ready")
        if self.state is not EngineState.STOPPED:
            self._set_state(EngineState.FAILED)
        self._fail_all()

    def _fail_start(self, message: str) -> None:
        if not self._started.done():
            self._set_state(EngineState.FAILED)
            self._started.set_exception(EngineStartError(message))

    def _fail_all(self) -> None:
        error = EngineUnavailable(f"the engine of model {self.config.name!r} has ended")
        for stream in self._streams.values():
            stream.fail(error)
        self._streams.clear()
        for future in self._lookups.values():
            if not future.done():
                future.set_exception(error)
