"""One branch of a decoding session as the front sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from headstream.server.engine.messages import Append, Rollback
from headstream.server.engine.stream import SequenceStream


class Branch:
    """Moves go in here, their rows come out of ``stream``; leaving the stream ends the branch.

    A branch makes one move at a time: all rows of one must have come before the next.
    """

    def __init__(
        self,
        sequence_id: int,
        stream: SequenceStream,
        send: Callable[[Append | Rollback], None],
        fork: Callable[[int], Self],
    ) -> None:
        self.stream = stream
        self._id = sequence_id
        self._send = send
        self._fork = fork

    def append(self, token_ids: Sequence[int]) -> None:
        """New tokens; a row comes for each."""
        self._send(Append(self._id, tuple(token_ids)))

    def rollback(self, length: int, *, row: bool) -> None:
        """Keep the first ``length`` tokens; with ``row`` the row of the last of them comes."""
        self._send(Rollback(self._id, length, row))

    def fork(self) -> Self:
        """A copy, with a stream of its own.

        Raises:
            EngineUnavailable: the engine is not serving.
        """
        return self._fork(self._id)
