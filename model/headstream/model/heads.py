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
from headstream.model.kernels.unembed import LogitRows
from headstream.model.outputs import LogitsSpec

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def finish_rows(model: Model, resid: Tensor, requests: tuple[RowRequest, ...]) -> list[RowResult]:
    """Logits, tokens and whatever else was asked for of rows ``resid`` [R, d].

    A row of logits is kept where its largest entries do not answer the request.
    """
    keep = [index for index, request in enumerate(requests) if _keeps_row(request)]
    normed = model.final_norm(resid)  # [R, d]
    found = model.unembed.look_through(normed, keep=keep, count=LEADING)
    kept = dict(zip(keep, found.kept, strict=True))
    leading = sampler.split_rows(found)
    return [
        _finish_row(_Row(found, kept.get(index), index), leading[index], request)
        for index, request in enumerate(requests)
    ]


def _keeps_row(request: RowRequest) -> bool:
    """Whether more of the row is wanted than its largest entries."""
    spec = request.logits
    leading = spec.mode == "none" or (spec.mode == "top" and spec.top_k <= LEADING)
    return request.needs_full_row or not leading


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of logits: what was found in all of them, and the row itself where it was kept."""

    found: LogitRows  # of R rows
    kept: Tensor | None  # float32 [V]
    index: int

    @property
    def logits(self) -> Tensor:
        """float32 [V]."""
        assert self.kept is not None
        return self.kept

    @property
    def log_total(self) -> Tensor:
        """float32 []."""
        return self.found.log_totals[self.index]


def _finish_row(row: _Row, leading: sampler.Leading, request: RowRequest) -> RowResult:
    whole = None if row.kept is None else row.kept.cpu().numpy()
    token_id = sampler.choose(leading, whole, request)
    logprob = None
    if request.logprob and token_id != sampler.NO_TOKEN:
        at = leading.ids == token_id
        logit = leading.values[at][0] if at.any() else row.logits[token_id]
        logprob = float(logit) - leading.log_total
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
            values, ids = (column[row.index, : spec.top_k] for column in row.found[:2])
        value_ids = tuple(ids.tolist())
    elif spec.mode == "full":
        values = row.logits
    else:
        values = row.logits[torch.tensor(spec.token_ids, device=row.logits.device)]
    if spec.logprobs:
        values = values - row.log_total
    return values.to("cpu", TORCH_DTYPES[spec.dtype]).contiguous(), value_ids
