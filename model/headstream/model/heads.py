"""From rows of the residual stream to logits and tokens.

Logits are float32 sums whatever the weights' dtype, and the row is one and the same everywhere: in
greedy choice, sampling, top-k, log-probabilities and full rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headstream.model import sampler
from headstream.model.batch import LEADING, RowRequest, RowResult
from headstream.model.families.base import Model
from headstream.model.kernels.unembed import LogitRows
from headstream.model.outputs import LogitsSpec

SLICE = 128
"""Rows unembedded at once: one that is kept takes a MiB where the vocabulary is large."""

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def finish_rows(model: Model, resid: Tensor, requests: tuple[RowRequest, ...]) -> list[RowResult]:
    """Logits, tokens and whatever else was asked for of rows ``resid`` [R, d].

    A row of logits is kept where its largest entries do not answer the request.
    """
    results: list[RowResult] = []
    for part in slices(len(requests)):
        wanted = requests[part]
        keep = [i for i, request in enumerate(wanted) if _keeps_row(request)]
        rows = Rows.unembed(model, resid[part], keep)
        leading = sampler.split_rows(rows.found)
        results += [
            _finish_row(rows, index, leading[index], request)
            for index, request in enumerate(wanted)
        ]
    return results


def slices(count: int) -> Iterator[slice]:
    """Cuts ``count`` rows into parts that are unembedded one after the other."""
    for start in range(0, count, SLICE):
        yield slice(start, min(start + SLICE, count))


def is_answered_by_leading(spec: LogitsSpec) -> bool:
    """Whether the largest entries of a row hold all the logits that are asked for."""
    return spec.mode == "none" or (spec.mode == "top" and spec.top_k <= LEADING)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of logits: what was found in all of them, and those that were kept whole."""

    found: LogitRows  # of R rows
    places: Mapping[int, int]  # row -> which of those kept it is

    @classmethod
    def unembed(
        cls, model: Model, resid: Tensor, keep: Sequence[int], targets: Tensor | None = None
    ) -> Rows:
        """The logits of rows ``resid`` [R, d]; see :class:`Unembed` for ``targets``."""
        assert model.unembed is not None, "nobody may ask such a model for logits"
        found = model.unembed.look_through(
            model.final_norm(resid), keep=keep, count=LEADING, targets=targets
        )
        return cls(found, {row: place for place, row in enumerate(keep)})

    def whole(self, row: int) -> Tensor | None:
        """float32 [V], if it was kept."""
        place = self.places.get(row)
        return None if place is None else self.found.kept[place]

    def select(self, rows: range, spec: LogitsSpec) -> tuple[Tensor, Tensor | None]:
        """The logits asked for of consecutive rows, and int64 [n, k] token ids of top-k.

        float [n, k] or [n, V] in the wire's dtype, on CPU. The rows were kept, unless the largest
        entries are all that is asked for.
        """
        place, ids = slice(rows.start, rows.stop), None
        log_totals = self.found.log_totals[place]
        if is_answered_by_leading(spec):
            values, ids = (column[place, : spec.top_k] for column in self.found[:2])
        else:
            first = self.places[rows.start]
            values = self.found.kept[first : first + len(rows)]  # [n, V]
            if spec.mode == "top":
                values, ids = values.topk(min(spec.top_k, values.shape[1]))
            elif spec.mode == "chosen":
                values = values[:, torch.tensor(spec.token_ids, device=values.device)]
        if spec.logprobs:
            values = values - log_totals[:, None]
        return values.to("cpu", TORCH_DTYPES[spec.dtype]).contiguous(), ids


def _keeps_row(request: RowRequest) -> bool:
    """Whether more of the row is wanted than its largest entries."""
    return request.needs_full_row or not is_answered_by_leading(request.logits)


def _finish_row(rows: Rows, index: int, leading: sampler.Leading, request: RowRequest) -> RowResult:
    kept = rows.whole(index)
    token_id = sampler.choose(leading, None if kept is None else kept.cpu().numpy(), request)
    logprob = None
    if request.logprob and token_id != sampler.NO_TOKEN:
        logprob = _logit(token_id, leading, kept) - leading.log_total
    if request.logits.mode == "none":
        return RowResult(token_id, logprob, None, ())
    values, ids = rows.select(range(index, index + 1), request.logits)
    return RowResult(token_id, logprob, values[0], () if ids is None else tuple(ids[0].tolist()))


def _logit(token_id: int, leading: sampler.Leading, kept: Tensor | None) -> float:
    """A token that was not kept is one of the largest."""
    if kept is not None:
        return float(kept[token_id])
    return float(leading.values[leading.ids == token_id][0])
