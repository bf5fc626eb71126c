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
from headstream.model.kernels.unembed import LogitRows, Targets
from headstream.model.outputs import LogitsSpec
from headstream.model.transfer import download

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
        rows = Rows.unembed(model, resid[part], rows_to_keep(wanted))
        results += choose_tokens(rows, wanted)
    return results


def read_rows(model: Model, resid: Tensor, spec: LogitsSpec) -> tuple[Tensor, Tensor | None]:
    """The logits asked for of rows ``resid`` [R, d], R at most ``SLICE``: see `Rows.select`."""
    keep = range(0) if is_answered_by_leading(spec) else range(len(resid))
    return Rows.unembed(model, resid, keep).select(range(len(resid)), spec)


def rows_to_keep(requests: tuple[RowRequest, ...]) -> list[int]:
    """Those of which more is wanted than their largest entries."""
    return [
        index
        for index, request in enumerate(requests)
        if request.needs_full_row or not is_answered_by_leading(request.logits)
    ]


def choose_tokens(rows: Rows, requests: tuple[RowRequest, ...]) -> list[RowResult]:
    """The outcome of each of the ``rows``."""
    leading = sampler.split_rows(rows.found)
    return [
        _finish_row(rows, index, leading[index], request) for index, request in enumerate(requests)
    ]


def slices(count: int) -> Iterator[slice]:
    """Cuts ``count`` rows into parts that are unembedded one after the other."""
    for start in range(0, count, SLICE):
        yield slice(start, min(start + SLICE, count))


def is_answered_by_leading(spec: LogitsSpec) -> bool:
    """Whether the largest entries of a row hold all the logits that are asked for."""
    return spec.mode == "none" or (spec.mode == "top" and spec.top_k <= LEADING)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of logits, on the CPU: what was found in all of them, and those that were kept whole."""

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
        return cls(_fetched(found), {row: place for place, row in enumerate(keep)})

    @classmethod
    def pick(cls, found: LogitRows, rows: Tensor, requests: tuple[RowRequest, ...]) -> Rows:
        """Of rows on a device that were all kept, those numbered ``rows`` int64 [R], on the CPU."""
        keep = rows_to_keep(requests)
        values, ids, log_totals, kept, _ = _fetched(
            found._replace(kept=found.kept[rows[keep]] if keep else found.kept[:0])
        )
        chosen = LogitRows(values[rows], ids[rows], log_totals[rows], kept, None)
        return cls(chosen, {row: place for place, row in enumerate(keep)})

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
                values = values[:, list(spec.token_ids)]
        if spec.logprobs:
            values = values - log_totals[:, None]
        return values.to(TORCH_DTYPES[spec.dtype]).contiguous(), ids


def _fetched(found: LogitRows) -> LogitRows:
    """The same on the CPU."""
    if found.values.device.type == "cpu":
        return found
    values, ids, log_totals, kept, *targets = download([*found[:4], *(found.targets or ())])
    return LogitRows(values, ids, log_totals, kept, Targets(*targets) if targets else None)


def _finish_row(rows: Rows, index: int, leading: sampler.Leading, request: RowRequest) -> RowResult:
    kept = rows.whole(index)
    token_id = sampler.choose(leading, None if kept is None else kept.numpy(), request)
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
