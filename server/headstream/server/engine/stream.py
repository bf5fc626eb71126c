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
from headstream.server.engine.credit import CREDIT_BYTES
from headstream.server.engine.messages import FinishReason, Milestone


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
    told_bytes: int = 0  # of tensors, with all events so far; 0: this has none, or is the last


class SequenceStream:
    """Iterate for events; leave the ``async with`` block to free whatever the sequence still holds.

    The stream ends after the event that carries ``finish``. An engine failure is raised as the
    exception that :meth:`fail` was given. The engine passes the sequence over once it has told as
    many bytes as its credit, which grows as events are read: an event counts as read when the next
    one is asked for, so what a caller does not take is still unread.
    """

    def __init__(self, on_leave: Callable[[], None], on_flow: Callable[[int], None]) -> None:
        """``on_flow``: is told of more credit, in bytes since the beginning."""
        self._on_leave = on_leave
        self._on_flow = on_flow
        self._events: deque[Event] = deque()
        self._read_bytes = 0
        self._credit_bytes = CREDIT_BYTES  # up to which the engine goes on
        self._error: Exception | None = None
        self._finished = False
        self.was_left = False  # before its end
        self.submitted_ns = time.monotonic_ns()
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        """Append the news of one step; never blocks."""
        self._events.append(event)
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
            told_bytes = event.told_bytes
            self._finished = event.finish is not None
            yield event
            if told_bytes and not self._finished:
                self._extend_credit(told_bytes)

    def _extend_credit(self, told_bytes: int) -> None:
        """All that was told up to here is read."""
        newest = told_bytes - self._read_bytes
        self._read_bytes = told_bytes
        # However large news are, some are made while others are written; of large ones, a few.
        ahead = max(CREDIT_BYTES, newest + 1, min(4 * newest, 16 * CREDIT_BYTES))
        credit_bytes = told_bytes + ahead
        if credit_bytes - self._credit_bytes >= CREDIT_BYTES // 2:
            self._credit_bytes = credit_bytes
            self._on_flow(credit_bytes)
