"""One sequence as the front sees it: an asynchronous stream of its news."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Self

from headstream.model.outputs import WireDtype
from headstream.model.sites import SiteName
from headstream.server.engine.messages import FinishReason, Milestone

CREDIT_BYTES = 1 << 20
"""Unread bytes at which a sequence is paused in the engine; it resumes below half of them."""
ID_BYTES = 4  # that a token id takes, at most, on the wire


@dataclass(frozen=True, slots=True)
class WireTensor:
    """A tensor as it goes on the wire: row-major, little-endian."""

    dtype: WireDtype
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A generated token."""

    index: int
    token_id: int
    logprob: float | None
    logits: WireTensor | None  # [k] or [V]
    logits_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowsEvent:
    """Rows [start, start + n) of one layer (0..L, or -1 for final)."""

    layer: int
    start: int
    values: WireTensor  # [n, d]


@dataclass(frozen=True, slots=True)
class LogitRowEvent:
    """The logits behind one token of a branch."""

    position: int
    values: WireTensor  # [k] or [V]
    token_ids: tuple[int, ...]  # of the values, for top-k


@dataclass(frozen=True, slots=True)
class ScoresEvent:
    """How likely the tokens at the positions [start, start + n) of the prompt are."""

    start: int
    values: WireTensor  # float32 [3, n]: log-probabilities, ranks, entropies
    logits: WireTensor | None  # [n, k] or [n, V]
    logits_ids: bytes  # int32 [n, k] token ids of the logits, for top-k


@dataclass(frozen=True, slots=True)
class SiteEvent:
    """What stood at a site of some layers at the positions [start, start + n)."""

    site: SiteName
    layers: tuple[int, ...]
    start: int
    values: WireTensor  # [layers, n, ...]


@dataclass(frozen=True, slots=True)
class PatternEvent:
    """Attention weights of consecutive queries among those asked for."""

    layer: int  # 0: a rollout
    queries: tuple[int, ...]
    weights: WireTensor  # [heads or 1, queries, keys or top_k]
    keys: bytes  # with top_k: int32 [heads or 1, queries, top_k]


@dataclass(frozen=True, slots=True)
class LensEvent:
    """Logits of one layer at the positions [start, start + n)."""

    layer: int
    start: int
    logits: WireTensor  # [n, k] or [n, V]
    logits_ids: bytes  # int32 [n, k], for top-k


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """What the inside of the model has shown."""

    sites: tuple[SiteEvent, ...] = ()
    patterns: tuple[PatternEvent, ...] = ()
    lens: tuple[LensEvent, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of tensors it holds, and of what goes with each of their values."""
        num_bytes = sum(_size(event.values) for event in self.sites)
        num_bytes += sum(_size(event.weights) + len(event.keys) for event in self.patterns)
        return num_bytes + sum(_size(event.logits) + len(event.logits_ids) for event in self.lens)


@dataclass(frozen=True, slots=True)
class Event:
    """The news of one sequence from one step."""

    token: TokenEvent | None
    rows: tuple[RowsEvent, ...]
    vectors: WireTensor | None  # pooled [spans, d], float32
    scores: ScoresEvent | None
    finish: FinishReason | None
    queue_ns: int
    compute_ns: int
    logit_rows: tuple[LogitRowEvent, ...] = ()
    seen: SeenEvent | None = None
    milestone: Milestone | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of tensors it holds, and of what goes with each of their values."""
        num_bytes = sum(_size(rows.values) for rows in self.rows) + _size(self.vectors)
        for row in self.logit_rows:
            num_bytes += _size(row.values) + ID_BYTES * len(row.token_ids)
        if self.token is not None:
            num_bytes += _size(self.token.logits) + ID_BYTES * len(self.token.logits_ids)
        if self.scores is not None:
            num_bytes += _size(self.scores.values) + _size(self.scores.logits)
            num_bytes += len(self.scores.logits_ids)
        return num_bytes + (self.seen.num_bytes if self.seen is not None else 0)


def _size(tensor: WireTensor | None) -> int:
    return len(tensor.data) if tensor is not None else 0


class SequenceStream:
    """Iterate for events; leave the ``async with`` block to free whatever the sequence still holds.

    The stream ends after the event that carries ``finish``. An engine failure is raised as the
    exception that :meth:`fail` was given. Unread events beyond the credit pause the sequence.
    """

    def __init__(
        self,
        on_leave: Callable[[], None],
        on_flow: Callable[[bool], None],
        credit_bytes: int = CREDIT_BYTES,
    ) -> None:
        self._on_leave = on_leave
        self._on_flow = on_flow
        self._credit_bytes = credit_bytes
        self._events: deque[Event] = deque()
        self._unread_bytes = 0
        self._paused = False
        self._error: Exception | None = None
        self._finished = False
        self.was_left = False  # before its end
        self.submitted_ns = time.monotonic_ns()
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        """Append the news of one step; never blocks."""
        self._events.append(event)
        self._unread_bytes += event.num_bytes
        if not self._paused and event.finish is None and self._unread_bytes > self._credit_bytes:
            self._paused = True
            self._on_flow(True)
        self._wake.set()

    def fail(self, error: Exception) -> None:
        """End the stream with an error, behind what is still unread."""
        self._error = error
        self._wake.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Free whatever the sequence still holds; a second call does nothing."""
        if not self._finished:
            self._finished = self.was_left = True
            self._on_leave()

    async def __aiter__(self) -> AsyncGenerator[Event]:
        while not self._finished:
            while not self._events:
                if self._error is not None:
                    raise self._error
                self._wake.clear()
                await self._wake.wait()
            event = self._events.popleft()
            self._unread_bytes -= event.num_bytes
            if self._paused and self._unread_bytes < self._credit_bytes // 2:
                self._paused = False
                self._on_flow(False)
            self._finished = event.finish is not None
            yield event
