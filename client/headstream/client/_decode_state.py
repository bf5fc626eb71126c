"""What is known of a branch of a decoding session: moves out, answers in. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from headstream.client._decode_rows import Answer, RowKind, RowsT
from headstream.v1 import logits_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence


class BranchState(Generic[RowsT]):
    """The tokens of a branch, and the rows that may be looked at without asking the server.

    These are the rows of the last `append` and the one before it: a rollback that takes back no
    more than that costs nothing.
    """

    def __init__(self, kind: RowKind[RowsT], number: int, token_ids: Sequence[int]) -> None:
        self._kind = kind
        self._number = number
        self._token_ids = list(token_ids)
        self._rows: dict[int, RowsT] = {}  # by position

    @property
    def token_ids(self) -> list[int]:
        """All tokens of the branch, the prompt's included."""
        return self._token_ids[:]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self._token_ids)

    @property
    def logits(self) -> RowsT:
        """The row behind the last token: [V], [n] for n token ids, or `TopLogits`."""
        return self._rows[self.length - 1]

    def _append_move(self, token_ids: Sequence[int]) -> pb.DecodeRequest:
        append = pb.DecodeAppend(branch=self._number, token_ids=token_ids)
        return pb.DecodeRequest(append=append)

    def _appended(self, token_ids: Sequence[int], answer: Answer) -> RowsT:
        """Note tokens and their rows."""
        rows, start = self._kind.rows(answer), self.length
        self._rows = {at: row for at, row in self._rows.items() if at == start - 1}
        self._rows |= {start + i: self._kind.row(rows, i) for i in range(len(token_ids))}
        self._token_ids += token_ids
        return rows

    def _fork_move(self) -> pb.DecodeRequest:
        return pb.DecodeRequest(fork=pb.DecodeFork(branch=self._number))

    def _rollback_move(self, length: int) -> pb.DecodeRequest:
        """With the row of the last token kept, where it is not here."""
        unknown = length - 1 not in self._rows
        rollback = pb.DecodeRollback(branch=self._number, length=length, logits=unknown)
        return pb.DecodeRequest(rollback=rollback)

    def _rolled_back(self, length: int, answer: Answer) -> None:
        del self._token_ids[length:]
        self._rows = {at: row for at, row in self._rows.items() if at < length}
        if answer.logits:
            self._note_last_row(answer)

    def _note_last_row(self, answer: Answer) -> None:
        """The answer holds the row behind the last token."""
        self._rows[self.length - 1] = self._kind.row(self._kind.rows(answer), 0)

    def _close_move(self) -> pb.DecodeRequest:
        return pb.DecodeRequest(close=pb.DecodeClose(branch=self._number))
