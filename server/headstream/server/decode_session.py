"""One decoding session: moves in, their answers out, and everything freed at its end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing

from headstream.model.outputs import Outputs
from headstream.model.sites import Edit
from headstream.server.admission import Ticket
from headstream.server.call import current_call
from headstream.server.engine.branch import Branch
from headstream.server.engine.stream import Event
from headstream.server.errors import (
    EngineFault,
    InvalidRequest,
    ServiceError,
    SessionExpired,
    SessionLimit,
)
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.sequence_run import followed
from headstream.server.session_branch import Move, SessionBranch
from headstream.server.session_tokens import SessionTokens
from headstream.server.wire.decode import OpenCall, parse_append, parse_rollback, to_parts
from headstream.server.wire.model import to_fingerprint
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import types_pb2

_UNSENT_ANSWERS = 2  # what more the engine has computed waits in its streams, where it is bounded


class DecodeSession:
    """A task reads and checks the moves, and one for each branch makes them.

    Lengths and limits follow from the moves alone, so every move is checked when it arrives, in
    the order of arrival, however far the branches are with making them.
    """

    def __init__(
        self,
        model: LoadedModel,
        metrics: Metrics,
        opened: OpenCall,
        ticket: Ticket,
        edits: tuple[Edit, ...],
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._opened = opened
        self._ticket = ticket
        self._edits = edits
        self._call = current_call()
        self._tokens = SessionTokens(model.sessions, model.limits.max_session_tokens)
        self._numbers = itertools.count()
        self._branches: dict[int, SessionBranch] = {}  # those that moves may name
        self._makers: set[asyncio.Task[None]] = set()
        self._held: set[Branch] = set()  # also those whose maker has not begun
        # An exception or None ends the session.
        self._outbox: asyncio.Queue[pb.DecodeResponse | BaseException | None] = asyncio.Queue(
            _UNSENT_ANSWERS
        )
        self._unanswered = 0  # moves
        self._last_sign = time.monotonic()  # of the client, or to it

    async def replies(
        self, prompt: tuple[int, ...], requests: AsyncIterator[pb.DecodeRequest]
    ) -> AsyncGenerator[pb.DecodeResponse]:
        """The answers. Closing the generator frees everything."""
        tasks: list[asyncio.Task[None]] = []
        try:
            self._open(prompt)
            tasks += [self._spawn(self._read(requests)), self._spawn(self._watch())]
            while (item := await self._outbox.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
                self._last_sign = time.monotonic()
                self._unanswered -= not item.more
        finally:
            tasks += self._makers
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for engine in self._held:
                engine.stream.leave()
            self._tokens.close_all()

    def _open(self, prompt: tuple[int, ...]) -> None:
        opened = self._opened
        number = next(self._numbers)
        self._tokens.append(number, len(prompt))
        self._count_input(len(prompt))
        branch = self._branches[number] = SessionBranch(number)
        engine = self._model.handle.open_branch(
            prompt,
            max_new_tokens=opened.max_tokens - len(prompt),
            outputs=Outputs(logits=opened.logits),
            edits=self._edits,
            tenant=self._call.tenant,
            priority=self._call.priority,
        )
        self._hold(branch, engine)
        move = pb.DecodeRequest(id=opened.move_id, open=pb.DecodeOpen())
        branch.moves.put_nowait(Move(move, len(prompt), num_rows=1))
        self._unanswered += 1
        self._start(branch, prompt)

    async def _read(self, requests: AsyncIterator[pb.DecodeRequest]) -> None:
        """Take moves until no branch is left, or until one breaks a rule."""
        failure: ServiceError | None = None
        try:
            async for request in requests:
                self._last_sign = time.monotonic()
                await self._take(request)
                if not self._branches:
                    break
        except ServiceError as error:
            failure = error
        for branch in self._branches.values():
            await branch.moves.put(None)
        await asyncio.gather(*self._makers)
        await self._outbox.put(failure)

    async def _take(self, request: pb.DecodeRequest) -> None:
        """Check a move and hand it to its branch."""
        branch, move = self._check(request)
        self._unanswered += 1
        await branch.moves.put(move)
        if request.HasField("close"):
            del self._branches[branch.number]
            self._tokens.close(branch.number)
            await branch.moves.put(None)

    def _check(self, request: pb.DecodeRequest) -> tuple[SessionBranch, Move]:
        """Whose move it is, if it keeps the rules; from now on its tokens count."""
        tokens = self._tokens
        match request.WhichOneof("move"):
            case "append":
                branch = self._find("append.branch", request.append.branch)
                before = tokens.length(branch.number)
                ids = parse_append(request.append, before, self._opened, self._model.limits)
                tokens.append(branch.number, len(ids))
                self._count_input(len(ids))
                return branch, Move(request, before + len(ids), num_rows=len(ids))
            case "rollback":
                branch = self._find("rollback.branch", request.rollback.branch)
                length = parse_rollback(request.rollback, tokens.length(branch.number))
                tokens.rollback(branch.number, length)
                return branch, Move(request, length, num_rows=int(request.rollback.logits))
            case "fork":
                branch = self._find("fork.branch", request.fork.branch)
                twin = self._fork(branch)
                return branch, Move(request, tokens.length(twin.number), twin=twin)
            case "close":
                return self._find("close.branch", request.close.branch), Move(request, 0)
            case "open":
                raise InvalidRequest("open", "the session is open already")
            case None:
                raise InvalidRequest("move", "is not set")

    def _find(self, name: str, number: int) -> SessionBranch:
        branch = self._branches.get(number)
        if branch is None:
            raise InvalidRequest(name, f"there is no open branch {number}")
        return branch

    def _fork(self, branch: SessionBranch) -> SessionBranch:
        limit = self._model.limits.max_branches
        if len(self._branches) == limit:
            raise SessionLimit(f"the session has {limit} branches; max_branches is {limit}")
        twin = SessionBranch(next(self._numbers))
        self._branches[twin.number] = twin
        self._tokens.fork(branch.number, twin.number)
        self._start(twin)
        return twin

    def _hold(self, branch: SessionBranch, engine: Branch) -> None:
        self._held.add(engine)
        branch.engine.set_result(engine)

    def _start(self, branch: SessionBranch, prompt: tuple[int, ...] = ()) -> None:
        maker = self._spawn(self._make_moves(branch, prompt))
        self._makers.add(maker)
        maker.add_done_callback(self._makers.discard)

    async def _make_moves(self, branch: SessionBranch, prompt: tuple[int, ...]) -> None:
        """The life of one branch."""
        engine = await branch.engine
        opened = followed(engine.stream) if prompt else aiter(engine.stream)
        async with engine.stream, aclosing(opened) as events:
            while (move := await branch.moves.get()) is not None:
                answer = pb.DecodeResponse(branch=branch.number)
                match move.request.WhichOneof("move"):
                    case "open":
                        answer = self._opening(prompt)
                    case "append":
                        engine.append(move.request.append.token_ids)
                    case "rollback":
                        engine.rollback(move.length, row=move.num_rows > 0)
                    case "fork":
                        assert move.twin is not None
                        self._hold(move.twin, engine.fork())
                        answer = pb.DecodeResponse(branch=move.twin.number)
                    case _:  # close: the stream is left when no more moves come
                        pass
                await self._answer(move, answer, events)
        self._held.discard(engine)

    def _opening(self, prompt: tuple[int, ...]) -> pb.DecodeResponse:
        return pb.DecodeResponse(
            fingerprint=to_fingerprint(self._model.name, self._model.ready),
            prompt=types_pb2.TokenIds(ids=prompt),
            request_id=self._call.request_id,
        )

    async def _answer(
        self, move: Move, first: pb.DecodeResponse, events: AsyncIterator[Event]
    ) -> None:
        """Send the answer of a move, with its rows as they come."""
        branch, part = first.branch, first
        left = move.num_rows
        while left:
            event = await anext(events)
            if event.finish is not None:
                raise EngineFault("the engine reported a fault of this branch")
            self._note(event)
            left -= len(event.logit_rows)
            for rows in to_parts(event.logit_rows):
                if part is first:
                    rows.MergeFrom(first)
                else:
                    part.more = True
                    await self._send(move, branch, part)
                part = rows
        await self._send(move, branch, part)

    async def _send(self, move: Move, branch: int, part: pb.DecodeResponse) -> None:
        part.id, part.branch, part.length = move.request.id, branch, move.length
        num_bytes = len(part.chunk) + sum(len(row.values.data) for row in part.logits)
        self._metrics.count_reply(self._call, self._model.name, "logits", num_bytes)
        await self._outbox.put(part)

    def _note(self, event: Event) -> None:
        self._ticket.release()
        self._call.note_times(event.queue_ns, event.compute_ns)
        self._call.note_output()

    def _count_input(self, count: int) -> None:
        self._call.input_tokens += count
        self._metrics.input_tokens.labels(self._model.name).inc(count)

    async def _watch(self) -> None:
        """End the session when nobody uses it, and when it has lasted too long."""
        limits = self._model.limits
        end = time.monotonic() + limits.session_seconds
        while (left := end - time.monotonic()) > 0:
            idle = limits.session_idle_seconds
            if not self._unanswered:
                idle -= time.monotonic() - self._last_sign
                if idle <= 0:
                    quiet = f"no move for {limits.session_idle_seconds:g} s"
                    await self._outbox.put(SessionExpired(quiet))
                    return
            await asyncio.sleep(min(left, idle))
        await self._outbox.put(SessionExpired(f"open for {limits.session_seconds:g} s"))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """A task whose failure is the session's."""

        async def run() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # raised again by whoever reads the outbox
                await self._outbox.put(error)

        return asyncio.create_task(run())
