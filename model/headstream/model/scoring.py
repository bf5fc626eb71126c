"""How likely given next tokens are: rows of a known text, against the tokens behind them."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from headstream.model.batch import RowScores, ScoreRequest, ScoreResult
from headstream.model.families.base import Model
from headstream.model.heads import Rows, is_answered_by_leading, slices
from headstream.model.kernels.unembed import Targets
from headstream.model.outputs import LogitsSpec


def finish_scores(
    model: Model, resid: Tensor, requests: tuple[ScoreRequest, ...]
) -> list[ScoreResult]:
    """Scores of rows ``resid`` [R, d], which belong to the requests one after the other."""
    if not requests:
        return []
    targets = torch.cat([request.targets for request in requests]).to(resid.device)  # [R]
    counts = [len(request.targets) for request in requests]
    starts = [0, *accumulate(counts)][:-1]
    ranges = [range(start, start + count) for start, count in zip(starts, counts, strict=True)]
    kept = [_KeptLogits(request.logits, own) for request, own in zip(requests, ranges, strict=True)]
    parts: list[RowScores] = []
    for part in slices(len(resid)):
        keep = [row - part.start for own in kept for row in own.whole_rows(part)]
        rows = Rows.unembed(model, resid[part], keep, targets[part])
        parts.append(_scores(rows))
        for own in kept:
            own.take(rows, part)
    logprobs, ranks, entropies = (
        torch.cat(column).split(counts) for column in zip(*parts, strict=True)
    )
    return [
        ScoreResult(RowScores(*scores), own.values, own.ids)
        for *scores, own in zip(logprobs, ranks, entropies, kept, strict=True)
    ]


def _scores(rows: Rows) -> RowScores:
    found = rows.found.targets
    assert isinstance(found, Targets)
    logprobs = found.logits.double() - rows.found.log_totals.double()
    return RowScores(logprobs.float(), found.ranks, found.entropies)


class _KeptLogits:
    """The logits to send of the rows of one request, gathered slice by slice."""

    def __init__(self, spec: LogitsSpec, rows: range) -> None:
        self.values: Tensor | None = None  # [n, k] or [n, V]
        self.ids: Tensor | None = None  # int64 [n, k]
        self._spec = spec
        self._rows = rows  # [n] of all that are scored

    def whole_rows(self, part: slice) -> range:
        """Its rows in the slice that must be kept whole."""
        return range(0) if is_answered_by_leading(self._spec) else self._within(part)

    def take(self, rows: Rows, part: slice) -> None:
        """Keep what the slice's ``rows`` hold of the request."""
        own = self._within(part)
        if self._spec.mode == "none" or not own:
            return
        values, ids = rows.select(range(own.start - part.start, own.stop - part.start), self._spec)
        place = slice(own.start - self._rows.start, own.stop - self._rows.start)
        if self.values is None:
            self.values = values.new_empty(len(self._rows), values.shape[1])
        self.values[place] = values
        if ids is not None:
            if self.ids is None:
                self.ids = ids.new_empty(len(self._rows), ids.shape[1], device="cpu")
            self.ids[place] = ids

    def _within(self, part: slice) -> range:
        return range(max(self._rows.start, part.start), min(self._rows.stop, part.stop))
