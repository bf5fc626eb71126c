"""From rows of the residual stream to logits and tokens.

Logits are float32 sums whatever the weights' dtype, and the row is one and the same everywhere: in
greedy choice, sampling, top-k, log-probabilities and full rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from headstream.model import sampler
from headstream.model.batch import RowRequest, RowResult, ScoreRequest, ScoreResult
from headstream.model.families.base import Model
from headstream.model.kernels.scan_rows import RowScan, ScanRows
from headstream.model.outputs import LogitsSpec
from headstream.model.scoring import RowScores, score_rows

LEADING = 64
"""Entries of each row that are found in the one pass over it."""

SLICE = 64
"""Rows unembedded at once: one row of logits takes a MiB where the vocabulary is large."""

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def finish_rows(
    model: Model, resid: Tensor, requests: tuple[RowRequest, ...], scan_rows: ScanRows
) -> list[RowResult]:
    """Logits, tokens and whatever else was asked for of rows ``resid`` [R, d]."""
    results: list[RowResult] = []
    for part in _slices(len(resid)):
        rows = _unembed(model, resid[part], scan_rows, LEADING)
        largest: list[int] = rows.scan.ids[:, 0].tolist()
        results += [
            _finish_row(rows, index, largest[index], request)
            for index, request in enumerate(requests[part])
        ]
    return results


def finish_scores(
    model: Model, resid: Tensor, requests: tuple[ScoreRequest, ...], scan_rows: ScanRows
) -> list[ScoreResult]:
    """Scores of rows ``resid`` [R, d], which belong to the requests one after the other."""
    if not requests:
        return []
    targets = torch.cat([request.targets for request in requests]).to(resid.device)  # [R]
    counts = [len(request.targets) for request in requests]
    ends = list(accumulate(counts))
    kept = [
        _KeptLogits(request.logits, count) for request, count in zip(requests, counts, strict=True)
    ]
    leading = LEADING if any(request.logits.mode == "top" for request in requests) else 1
    parts: list[RowScores] = []
    for part in _slices(len(resid)):
        rows = _unembed(model, resid[part], scan_rows, leading)
        parts.append(score_rows(rows.logits, targets[part], rows.scan.log_totals))
        for own, end, count in zip(kept, ends, counts, strict=True):
            own.take(rows, shift=end - count - part.start)
    logprobs, ranks, entropies = (
        torch.cat(each).cpu().split(counts) for each in zip(*parts, strict=True)
    )
    return [
        ScoreResult(RowScores(*each), own.values, own.ids)
        for *each, own in zip(logprobs, ranks, entropies, kept, strict=True)
    ]


def _slices(count: int) -> Iterator[slice]:
    for start in range(0, count, SLICE):
        yield slice(start, min(start + SLICE, count))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of logits, and what their scan found."""

    logits: Tensor  # float32 [R, V]
    scan: RowScan

    def __getitem__(self, part: slice) -> _Rows:
        return _Rows(self.logits[part], RowScan(*(found[part] for found in self.scan)))

    def select(self, spec: LogitsSpec) -> tuple[Tensor, Tensor | None]:
        """The logits asked for: [R, k] or [R, V] in the wire's dtype, and int64 ids of top-k."""
        ids = None
        if spec.mode == "top":
            if spec.top_k > LEADING:
                values, ids = self.logits.topk(min(spec.top_k, self.logits.shape[1]))
            else:
                values, ids = (found[:, : spec.top_k] for found in self.scan[:2])
        elif spec.mode == "chosen":
            values = self.logits[:, torch.tensor(spec.token_ids, device=self.logits.device)]
        else:
            values = self.logits
        if spec.logprobs:
            values = values - self.scan.log_totals[:, None]
        return values.to("cpu", TORCH_DTYPES[spec.dtype]).contiguous(), ids


def _unembed(model: Model, resid: Tensor, scan_rows: ScanRows, leading: int) -> _Rows:
    logits = model.unembed(model.final_norm(resid))  # [R, V]
    return _Rows(logits, scan_rows(logits, min(leading, logits.shape[1])))


def _finish_row(rows: _Rows, index: int, largest: int, request: RowRequest) -> RowResult:
    params = request.sampling
    token_id = largest
    if not (params.greedy and params.plain):
        token_id = sampler.choose(rows.logits[index].cpu(), request)
    logprob = None
    if request.logprob:
        logprob = float(rows.logits[index, token_id]) - float(rows.scan.log_totals[index])
    if request.logits.mode == "none":
        return RowResult(token_id, logprob, None, ())
    values, ids = rows[index : index + 1].select(request.logits)
    return RowResult(token_id, logprob, values[0], () if ids is None else tuple(ids[0].tolist()))


class _KeptLogits:
    """The logits to send of the rows of one request, gathered slice by slice."""

    def __init__(self, spec: LogitsSpec, count: int) -> None:
        self.values: Tensor | None = None  # [count, k] or [count, V]
        self.ids: Tensor | None = None  # int64 [count, k]
        self._spec = spec
        self._count = count

    def take(self, rows: _Rows, shift: int) -> None:
        """Keep what ``rows`` hold of the request, whose rows begin ``shift`` rows further on."""
        begin, end = max(shift, 0), min(shift + self._count, len(rows.logits))
        if self._spec.mode == "none" or begin >= end:
            return
        values, ids = rows[begin:end].select(self._spec)
        place = slice(begin - shift, end - shift)
        if self.values is None:
            self.values = values.new_empty(self._count, values.shape[1])
        self.values[place] = values
        if ids is not None:
            if self.ids is None:
                self.ids = ids.new_empty(self._count, ids.shape[1], device="cpu")
            self.ids[place] = ids
