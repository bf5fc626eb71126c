"""A decoding session and its branches, for the sync client."""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from typing import TYPE_CHECKING, Self

import grpc

from headstream.client import _replies, _status
from headstream.client._decode_rows import Answer, Answers, RowKind, RowsT
from headstream.client._decode_state import BranchState
from headstream.v1 import logits_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from headstream.client._item_stream import SyncCall

    Begin = Callable[[Iterator[pb.DecodeRequest]], SyncCall[pb.DecodeResponse]]


class DecodeCall:
    """The call of a session: moves out, answers in.

    gRPC takes moves from the queue in a thread of its own, which ends with the `None` behind them.
    """

    def __init__(self, begin: Begin) -> None:
        self._over = True  # until it has begun
        self._answers = Answers()
        self._complete: dict[int, Answer] = {}
        self._next_id = 0
        self._moves = queue.SimpleQueue[pb.DecodeRequest | None]()
        self._call = begin(iter(self._moves.get, None))
        self._over = False

    def send(self, move: pb.DecodeRequest) -> int:
        """Make a move; its number.

        Raises:
            ValueError: The session is closed.
        """
        if self._over:
            raise ValueError("the session is closed")
        move.id = self._next_id
        self._next_id += 1
        self._moves.put(move)
        return move.id

    def wait(self, move_id: int) -> Answer:
        """The answer to a move.

        Raises:
            StreamBroken: The session ended on the way.
            RpcError: The move was refused, which ends the session.
        """
        while move_id not in self._complete:
            try:
                complete = self._answers.feed(next(self._call))
            except StopIteration:
                self.cancel()
                raise _status.unfinished(self._answers.num_complete) from None
            except grpc.RpcError as error:
                self.cancel()
                raise _status.from_call(error, self._answers.num_complete or None) from error
            if complete is not None:
                self._complete[complete[0]] = complete[1]
        return self._complete.pop(move_id)

    def make(self, move: pb.DecodeRequest) -> Answer:
        """Make a move and wait for its answer."""
        return self.wait(self.send(move))

    def close(self) -> None:
        """End the session on the server, well if all its moves are answered."""
        if self._over or self._answers.num_complete < self._next_id:
            self.cancel()
            return
        self._over = True
        self._moves.put(None)
        with contextlib.suppress(grpc.RpcError):
            deque(self._call, maxlen=0)  # nothing comes but the end

    def cancel(self) -> None:
        """End the session at once, if it still lasts."""
        if not self._over:
            self._over = True
            self._call.cancel()
            self._moves.put(None)

    def __del__(self) -> None:
        self.cancel()


class Branch(BranchState[RowsT]):
    """One line of tokens in a session; `append`, `fork`, `rollback` and look at the `logits`.

    Every method raises `StreamBroken` when the session has ended, another `RpcError` when the
    server refuses the move, which ends the session, and `ValueError` once it is closed.
    """

    def __init__(
        self, call: DecodeCall, kind: RowKind[RowsT], number: int, token_ids: Sequence[int]
    ) -> None:
        super().__init__(kind, number, token_ids)
        self._call = call
        self._closed = False

    def append(self, token_ids: Sequence[int]) -> RowsT:
        """Add tokens, all read in one step; the row behind each of them.

        Returns:
            [k, V] for "full", [k, n] for n token ids, `TopLogits` of [k, n] for "top".
        """
        return self._take_append(token_ids, self._send(self._append_move(token_ids)))

    def fork(self) -> Branch[RowsT]:
        """A copy, which shares what the server has computed."""
        answer = self._make(self._fork_move())
        twin = Branch(self._call, self._kind, answer.first.branch, self._token_ids)
        twin._rows = dict(self._rows)
        return twin

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens, at least one."""
        self._rolled_back(length, self._make(self._rollback_move(length)))

    def close(self) -> None:
        """Give the branch up."""
        if not self._closed:
            self._make(self._close_move())
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()

    def _send(self, move: pb.DecodeRequest) -> int:
        if self._closed:
            raise ValueError("the branch is closed")
        return self._call.send(move)

    def _make(self, move: pb.DecodeRequest) -> Answer:
        return self._wait(self._send(move))

    def _wait(self, move_id: int) -> Answer:
        try:
            return self._call.wait(move_id)
        except BaseException:  # an interrupt too: whether the move was made is not known here
            self._closed = True
            raise

    def _take_append(self, token_ids: Sequence[int], move_id: int) -> RowsT:
        return self._appended(token_ids, self._wait(move_id))


class Decoding(Branch[RowsT]):
    """A decoding session, and its first branch, which holds the prompt.

    Leaving the `with` block, or `close()`, ends it with all branches. One thread at a time may use
    a session.

    Attributes:
        fingerprint: Which numbers these are.
        request_id: The server's id of the session.
    """

    def __init__(self, begin: Begin, opening: pb.DecodeOpen, kind: RowKind[RowsT]) -> None:
        call = DecodeCall(begin)
        answer = call.make(pb.DecodeRequest(open=opening))
        super().__init__(call, kind, answer.first.branch, answer.first.prompt.ids)
        self._note_last_row(answer)
        self.fingerprint = _replies.fingerprint(answer.first.fingerprint)
        self.request_id = answer.first.request_id

    def append_many(
        self, branches: Sequence[Branch[RowsT]], token_ids: Sequence[Sequence[int]]
    ) -> list[RowsT]:
        """Append to several branches at once: the model reads them side by side.

        Raises:
            ValueError: The lists have not the same length.
        """
        pairs = list(zip(branches, token_ids, strict=True))
        moves = [branch._send(branch._append_move(ids)) for branch, ids in pairs]  # noqa: SLF001
        return [
            branch._take_append(ids, move)  # noqa: SLF001 - branches of this session
            for (branch, ids), move in zip(pairs, moves, strict=True)
        ]

    def close(self) -> None:
        """End the session and all its branches."""
        self._closed = True
        self._call.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
