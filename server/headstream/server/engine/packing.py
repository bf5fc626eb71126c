"""From the schedule to the packed batch: pure functions, no policy."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from headstream.model.batch import PackedBatch, Place, Places, RowRequest, ScoreRequest
from headstream.model.edits import RowEdit
from headstream.server.engine.looking import Sight, SiteRows, wanted
from headstream.server.engine.plan import Schedule
from headstream.server.engine.sequence import Sequence
from headstream.server.engine.views import Span

TapUse = Literal["sent", "pooled", "read"]
"""Rows are sent as they are, pooled to vectors, or read through the lens."""


@dataclass(frozen=True, slots=True)
class TapRange:
    """Rows of a tapped layer, from ``offset`` on, belong to these positions of a sequence."""

    sequence: Sequence
    layer: int
    start: int  # first position
    end: int
    use: TapUse
    offset: int = 0

    @property
    def count(self) -> int:
        """How many they are."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class ScoreRange:
    """A :class:`ScoreRequest` of the batch is about the tokens from ``start`` on."""

    sequence: Sequence
    start: int  # position of the first token that is scored


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed batch, and whose rows are whose."""

    batch: PackedBatch
    token_sequences: tuple[Sequence, ...]  # one of each head; those of one sequence by position
    tap_ranges: tuple[TapRange, ...]
    score_ranges: tuple[ScoreRange, ...]  # one of each of the scores
    sights: tuple[Sight, ...]  # of the sequences that show something


def pack(
    schedule: Schedule, block_size: int, block_copies: Iterable[tuple[int, int]] = ()
) -> Packed:
    """Lay the rows of all scheduled sequences end to end.

    ``block_copies``: which blocks are copied where before.
    """
    input_ids = array("q")
    starts: list[int] = []
    token_sequences: list[Sequence] = []
    logits_indices: list[int] = []
    taps = _Taps()
    scores = _Scores()
    inside = _Inside()
    num_rows = 0
    for sequence, count in schedule.items():
        start = sequence.num_computed
        if sequence.is_tapped:
            taps.add(sequence, start, start + count, first_row=num_rows)
        if sequence.views or sequence.edits is not None:
            inside.add(sequence, start, start + count, first_row=num_rows)
        if scored := sequence.scored_rows(count):
            scores.add(sequence, scored, shift=num_rows - start)
        starts.append(start)
        input_ids += sequence.token_ids[start : start + count]
        wanted = sequence.wanted_logits(count)
        logits_indices += range(num_rows + wanted.start - start, num_rows + wanted.stop - start)
        token_sequences += [sequence] * len(wanted)
        if wanted and sequence.siblings:  # each draws a token of its own from the same row
            logits_indices += [logits_indices[-1]] * len(sequence.siblings)
            token_sequences += sequence.siblings
        num_rows += count
    counts = np.array(list(schedule.values()), np.int64)  # [S]
    first = np.array(starts, np.int64)  # [S] positions
    ends = first + counts  # [S]
    prompts = np.array([sequence.num_prompt for sequence in schedule], np.int64)  # [S]
    bounds = np.zeros(len(counts) + 1, np.int64)  # [S + 1]
    np.cumsum(counts, out=bounds[1:])
    owners = np.repeat(np.arange(len(counts)), counts)  # [N] row of the block table
    positions: NDArray[np.int64] = np.arange(num_rows) + (first - bounds[:-1])[owners]  # [N]
    table = _block_table([sequence.block_ids for sequence in schedule])  # [S, B]
    blocks = table[owners, positions // block_size].astype(np.int64)  # [N]
    batch = PackedBatch(
        input_ids=torch.frombuffer(input_ids, dtype=torch.int64),
        positions=torch.from_numpy(positions),
        cu_seqlens_q=_int32(bounds),
        context_lens=_int32(ends),
        prompt_rows=_int32(np.maximum(np.minimum(ends, prompts) - first, 0)),
        block_table=torch.from_numpy(table),
        slot_mapping=torch.from_numpy(blocks * block_size + positions % block_size),
        max_seqlen_q=int(counts.max()),
        max_seqlen_k=int(ends.max()),
        logits_indices=_int64(logits_indices + scores.rows),
        taps={layer: _int64(rows) for layer, rows in taps.rows.items()},
        block_copies=_int64(list(block_copies)).reshape(-1, 2).T,
        heads=tuple(_row_request(sequence) for sequence in token_sequences),
        scores=tuple(scores.requests),
        sites={places: _int64(rows) for places, rows in inside.rows.items()},
        edits={place: tuple(edits) for place, edits in inside.edits.items()},
    )
    return Packed(
        batch,
        tuple(token_sequences),
        tuple(taps.ranges),
        tuple(scores.ranges),
        tuple(inside.sights),
    )


def _int64(values: list[int] | list[tuple[int, int]]) -> torch.Tensor:
    return torch.from_numpy(np.array(values, np.int64))  # torch reads a list ten times slower


def _int32(values: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int32))


def _block_table(tables: list[array[int]]) -> NDArray[np.int32]:
    """int32 [S, B], padded with block 0, which no context length reaches into."""
    lengths = np.array([len(table) for table in tables])
    width = int(lengths.max())
    padded = np.zeros((len(tables), width), np.int32)
    padded[np.arange(width) < lengths[:, None]] = np.frombuffer(b"".join(tables), np.int32)
    return padded


def _row_request(sequence: Sequence) -> RowRequest:
    spec = sequence.spec
    return RowRequest(
        sampling=spec.sampling,
        logits=spec.outputs.logits,
        logprob=spec.outputs.logprob,
        draw=len(sequence.output_ids),
        prompt_ids=spec.token_ids,
        output_ids=sequence.output_ids,
        banned_ids=sequence.banned_ids,
        mask=None if sequence.matcher is None else sequence.matcher.mask(),
    )


class _Scores:
    """Collects the rows that score the token behind them, and whose they are."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.requests: list[ScoreRequest] = []
        self.ranges: list[ScoreRange] = []

    def add(self, sequence: Sequence, positions: range, shift: int) -> None:
        """The rows at ``positions``, which stand ``shift`` rows further in X."""
        score = sequence.spec.outputs.score
        assert score is not None
        first, end = positions.start + 1, positions.stop + 1  # of their tokens
        targets = torch.frombuffer(sequence.token_ids[first:end], dtype=torch.int64)
        self.rows += range(positions.start + shift, positions.stop + shift)
        self.requests.append(ScoreRequest(targets, score.logits))
        self.ranges.append(ScoreRange(sequence, first))


class _Taps:
    """Collects which rows of which layers are wanted, and whose they are."""

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = defaultdict(list)
        self.ranges: list[TapRange] = []

    def add(self, sequence: Sequence, start: int, end: int, first_row: int) -> None:
        """Positions [start, end) of ``sequence`` stand in the rows from ``first_row`` on."""
        outputs, shift = sequence.spec.outputs, first_row - start
        fresh = max(start, sequence.num_reported)
        prompt_end = min(end, sequence.num_prompt)
        for layer in outputs.rows.prompt_layers:
            self._add(TapRange(sequence, layer, fresh, prompt_end, "sent"), shift)
        if (pool := outputs.pool) is not None:
            begin = max(fresh, sequence.first_pooled)
            self._add(TapRange(sequence, pool.layer, begin, prompt_end, "pooled"), shift)
        if (lens := sequence.spec.look.lens) is not None:
            begin, stop = max(fresh, lens.start), min(prompt_end, lens.end)
            for layer in lens.layers:
                self._add(TapRange(sequence, layer, begin, stop, "read"), shift)
        begin = max(fresh, sequence.num_prompt)
        for layer in outputs.rows.generated_layers:
            self._add(TapRange(sequence, layer, begin, end, "sent"), shift)

    def _add(self, part: TapRange, shift: int) -> None:
        """Tap its positions, if it has any, which stand ``shift`` rows further in X."""
        if part.start < part.end:
            rows = self.rows[part.layer]
            self.ranges.append(replace(part, offset=len(rows)))
            rows += range(part.start + shift, part.end + shift)


class _Inside:
    """Collects which rows of which sites are kept, and which are changed."""

    def __init__(self) -> None:
        self.rows: dict[Places, list[int]] = defaultdict(list)
        self.sights: list[Sight] = []
        self.edits: dict[Place, list[RowEdit]] = defaultdict(list)

    def add(self, sequence: Sequence, start: int, end: int, first_row: int) -> None:
        """Positions [start, end) of ``sequence`` stand in the rows from ``first_row`` on."""
        shift = first_row - start
        if sequence.edits is not None:
            for place, edit in sequence.edits.rows(start, end, shift):
                self.edits[place].append(edit)
        span = Span(start, end, sequence.num_reported)
        own: dict[Places, SiteRows] = {}
        for places, positions in wanted(sequence.views, span).items():
            rows = self.rows[places]
            own[places] = SiteRows(len(rows), positions)
            rows += range(positions.start + shift, positions.stop + shift)
        if own:
            self.sights.append(Sight(sequence, span, own))
