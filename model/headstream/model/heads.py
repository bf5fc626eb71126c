"""From rows of the residual stream to logits and tokens.

Logits are float32 sums whatever the weights' dtype, and the row is one and the same everywhere: in
greedy choice, sampling, top-k, log-probabilities and full rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headstream.model import sampler
from headstream.model.batch import LEADING, RowRequest, RowResult
from headstream.model.families.base import Model
from headstream.model.kernels.scan_rows import RowScan, ScanRows
from headstream.model.outputs import LogitsSpec

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def finish_rows(
    model: Model, resid: Tensor, requests: tuple[RowRequest, ...], scan_rows: ScanRows
) -> list[RowResult]:
    """Logits, tokens and whatever else was asked for of rows ``resid`` [R, d]."""
    logits = model.unembed(model.final_norm(resid))  # [R, V]
    scan = scan_rows(logits, min(LEADING, logits.shape[1]))
    leading = sampler.split_scan(scan)
    return [
        _finish_row(_Row(logits, scan, index), leading[index], request)
        for index, request in enumerate(requests)
    ]


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of logits, and what its scan found; cut out where it is wanted."""

    all_logits: Tensor  # float32 [R, V]
    scan: RowScan  # of all rows
    index: int

    @property
    def logits(self) -> Tensor:
        """float32 [V]."""
        return self.all_logits[self.index]

    @property
    def log_total(self) -> Tensor:
        """float32 []."""
        return self.scan.log_totals[self.index]


def _finish_row(row: _Row, leading: sampler.Leading, request: RowRequest) -> RowResult:
    full = row.logits.cpu().numpy() if request.needs_full_row else None
    token_id = sampler.choose(leading, full, request)
    logprob = None
    if request.logprob and token_id >= 0:
        logprob = float(row.logits[token_id]) - float(row.log_total)
    values, value_ids = _select(row, request.logits)
    return RowResult(token_id, logprob, values, value_ids)


def _select(row: _Row, spec: LogitsSpec) -> tuple[Tensor | None, tuple[int, ...]]:
    """The logits asked for: [k] or [V] in the wire's dtype, and the ids of top-k."""
    value_ids: tuple[int, ...] = ()
    if spec.mode == "none":
        return None, ()
    if spec.mode == "top":
        if spec.top_k > LEADING:
            values, ids = row.logits.topk(min(spec.top_k, len(row.logits)))
        else:
            values, ids = (found[row.index, : spec.top_k] for found in row.scan[:2])
        value_ids = tuple(ids.tolist())
    elif spec.mode == "full":
        values = row.logits
    else:
        values = row.logits[torch.tensor(spec.token_ids, device=row.logits.device)]
    if spec.logprobs:
        values = values - row.log_total
    return values.to("cpu", TORCH_DTYPES[spec.dtype]).contiguous(), value_ids
