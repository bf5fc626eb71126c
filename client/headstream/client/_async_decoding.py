"""A decoding session and its branches, for the async client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import grpc.aio

from headstream.client import _replies, _status
from headstream.client._decode_rows import Answer, Answers, RowKind, RowsT
from headstream.client._decode_state import BranchState
from headstream.client._results import Fingerprint
from headstream.v1 import logits_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from headstream.client._async_exchange import AsyncExchange

    Exchange = AsyncExchange[pb.DecodeRequest, pb.DecodeResponse]
    Begin = Callable[[], Awaitable[Exchange]]


class AsyncDecodeCall:
    """The call of a session: moves out, answers in. A task reads the answers."""

    def __init__(self, call: Exchange) -> None:
        self._call = call
        self._answers = Answers()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._next_id = 0
        self._turn = asyncio.Lock()  # gRPC takes one message at a time
        self._failure: Exception | None = None
        self._reader = asyncio.create_task(self._read())

    async def make(self, move: pb.DecodeRequest) -> Answer:
        """Make a move and wait for its answer; others may be made meanwhile.

        Raises:
            StreamBroken: The session ended on the way.
            RpcError: The move was refused, which ends the session.
            ValueError: The session is closed.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        async with self._turn:
            if self._failure is not None:
                raise self._failure
            move.id = self._next_id
            self._next_id += 1
            self._waiting[move.id] = future
            await self._call.write(move)  # if the call has ended, the reader says how
        return await future

    async def close(self) -> None:
        """End the session on the server, well if all its moves are answered."""
        closed = ValueError("the session is closed")
        if self._waiting or self._failure is not None:
            self._end(closed)
        self._failure = closed
        await self._call.done_writing()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while (part := await self._call.read()) is not None:
                if (complete := self._answers.feed(part)) is None:
                    continue
                move_id, answer = complete
                future = self._waiting.pop(move_id)
                if not future.done():  # otherwise nobody waits for it any more
                    future.set_result(answer)
            self._end(_status.unfinished(self._answers.num_complete))
        except grpc.aio.AioRpcError as error:
            self._end(_status.from_call(error, self._answers.num_complete or None))

    def _end(self, failure: Exception) -> None:
        self._call.cancel()
        if self._failure is None:
            self._failure = failure
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._failure)
        self._waiting.clear()


class AsyncBranch(BranchState[RowsT]):
    """One line of tokens in a session; `append`, `fork`, `rollback` and look at the `logits`.

    As `Branch`. Moves of several branches may be awaited together, with `asyncio.gather`: the
    model then reads them side by side. Those of one branch are made one after the other. A branch
    whose move was cancelled is closed.
    """

    def __init__(
        self, call: AsyncDecodeCall, kind: RowKind[RowsT], number: int, token_ids: Sequence[int]
    ) -> None:
        super().__init__(kind, number, token_ids)
        self._call = call
        self._closed = False

    async def append(self, token_ids: Sequence[int]) -> RowsT:
        """Add tokens; the row behind each of them. As `Branch.append`."""
        return self._appended(token_ids, await self._make(self._append_move(token_ids)))

    async def fork(self) -> AsyncBranch[RowsT]:
        """A copy, which shares what the server has computed."""
        answer = await self._make(self._fork_move())
        twin = AsyncBranch(self._call, self._kind, answer.first.branch, self._token_ids)
        twin._rows = dict(self._rows)
        return twin

    async def rollback(self, length: int) -> None:
        """Keep the first `length` tokens, at least one."""
        self._rolled_back(length, await self._make(self._rollback_move(length)))

    async def close(self) -> None:
        """Give the branch up."""
        if not self._closed:
            await self._make(self._close_move())
            self._closed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()

    async def _make(self, move: pb.DecodeRequest) -> Answer:
        if self._closed:
            raise ValueError("the branch is closed")
        try:
            return await self._call.make(move)
        except BaseException:  # cancelled too: whether the move was made is not known here
            self._closed = True
            raise


class AsyncDecoding(AsyncBranch[RowsT]):
    """A decoding session, and its first branch, which holds the prompt.

    It begins with `async with`, whose end, or `close()`, ends it with all branches.

    Attributes:
        fingerprint: Which numbers these are.
        request_id: The server's id of the session.
    """

    def __init__(self, begin: Begin, opening: pb.DecodeOpen, kind: RowKind[RowsT]) -> None:
        self._kind = kind
        self._begin = begin
        self._opening = opening
        self.fingerprint = Fingerprint()
        self.request_id = ""

    async def __aenter__(self) -> Self:
        call = AsyncDecodeCall(await self._begin())
        try:
            answer = await call.make(pb.DecodeRequest(open=self._opening))
        except BaseException:
            await call.close()
            raise
        super().__init__(call, self._kind, answer.first.branch, answer.first.prompt.ids)
        self._note_last_row(answer)
        self.fingerprint = _replies.fingerprint(answer.first.fingerprint)
        self.request_id = answer.first.request_id
        return self

    async def close(self) -> None:
        """End the session and all its branches."""
        self._closed = True
        await self._call.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
