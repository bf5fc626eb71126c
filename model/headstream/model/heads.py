"""From rows of the residual stream to logits and tokens.

In bfloat16 the product of the unembedding ties and misorders the leading logits (2.8% of largest
tokens flip by rounding alone: ARCHITECTURE.md), so the ``RESCORED`` largest of each row are
computed again in float32. The row that results is the row everywhere: in greedy choice, sampling,
top-k, log-probabilities and full rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headstream.model import sampler
from headstream.model.batch import RowRequest, RowResult
from headstream.model.families.base import Model
from headstream.model.kernels.scan_rows import RowScan, ScanRows
from headstream.model.outputs import LogitsSpec

RESCORED = 64

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class LogitRows:
    """The logits of R rows, with the leading ones exact."""

    def __init__(self, model: Model, resid: Tensor, scan_rows: ScanRows) -> None:
        """``resid`` [R, d]: rows of the residual stream after the last layer."""
        normed = model.final_norm(resid)
        self._logits = model.unembed(normed)  # [R, V]
        scan = scan_rows(self._logits, min(RESCORED, self._logits.shape[1]))
        self.leading = scan
        if self._logits.dtype != torch.float32:
            self.leading = _rescored(scan, model.rescore(normed, scan.ids))
        self.largest: list[int] = self.leading.ids[:, 0].tolist()
        # Rows so flat that an entry which was not rescored may stand above all that were.
        self.flat: list[bool] = (self.leading.values[:, 0] < scan.values[:, -1]).tolist()

    def row(self, index: int) -> Tensor:
        """Row ``index`` as float32 [V] on CPU."""
        row = self._logits[index].to("cpu", torch.float32, copy=True)
        row[self.leading.ids[index].cpu()] = self.leading.values[index].cpu()
        return row


def _rescored(scan: RowScan, exact: Tensor) -> RowScan:
    """The scan with ``exact`` values [R, K] of its ids, in their order, and the total they give."""
    old, new = scan.values.double(), exact.double()
    peak = torch.maximum(old, new).amax(dim=1, keepdim=True)  # [R, 1]
    rest = (scan.log_totals.double() - peak[:, 0]).exp() - (old - peak).exp().sum(dim=1)
    total = rest.clamp_min(0) + (new - peak).exp().sum(dim=1)
    # By value, then by id: a stable sort of the ids first.
    ids, order = scan.ids.sort(dim=1)
    values, by_value = exact.gather(1, order).sort(dim=1, descending=True, stable=True)
    return RowScan(values, ids.gather(1, by_value), (total.log() + peak[:, 0]).float())


def finish_rows(
    model: Model, resid: Tensor, requests: tuple[RowRequest, ...], scan_rows: ScanRows
) -> list[RowResult]:
    """Logits, tokens and whatever else was asked for of rows ``resid`` [R, d]."""
    rows = LogitRows(model, resid, scan_rows)
    return [_finish_row(rows, index, request) for index, request in enumerate(requests)]


def _finish_row(rows: LogitRows, index: int, request: RowRequest) -> RowResult:
    params, spec = request.sampling, request.logits
    greedy = params.greedy and params.plain and not rows.flat[index]
    leading = spec.mode == "none" or (spec.mode == "top" and spec.top_k <= RESCORED)
    row = None if greedy and leading else rows.row(index)
    token_id = rows.largest[index] if greedy or row is None else sampler.choose(row, request)
    logprob = None
    if request.logprob:
        logit = rows.leading.values[index, 0] if row is None else row[token_id]
        logprob = float(logit) - float(rows.leading.log_totals[index])
    values, value_ids = _select(rows, index, row, spec)
    return RowResult(token_id, logprob, values, value_ids)


def _select(
    rows: LogitRows, index: int, row: Tensor | None, spec: LogitsSpec
) -> tuple[Tensor | None, tuple[int, ...]]:
    """The logits asked for: [k] or [V] in the wire's dtype, and the ids of top-k.

    ``row`` [V] is None where the leading entries hold all of them.
    """
    value_ids: tuple[int, ...] = ()
    if spec.mode == "none":
        return None, ()
    if spec.mode == "top":
        if spec.top_k <= RESCORED and not rows.flat[index]:
            values, ids = (t[index, : spec.top_k].cpu() for t in rows.leading[:2])
        else:
            assert row is not None
            values, ids = row.topk(min(spec.top_k, len(row)))
        value_ids = tuple(ids.tolist())
    else:
        assert row is not None
        values = (
            row if spec.mode == "full" else row[torch.tensor(spec.token_ids, dtype=torch.int64)]
        )
    if spec.logprobs:
        values = values - rows.leading.log_totals[index].cpu()
    return values.to(TORCH_DTYPES[spec.dtype]).contiguous(), value_ids
