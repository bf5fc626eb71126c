"""What the layers of one rank compute with: the kernels of one process, and sums over the ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from headstream.model.kernels import Kernels
from headstream.model.kernels.unembed import LogitRows, Targets, Unembed
from headstream.model.parallel.group import Group

_VECTOR = 16
"""Torch computes what is behind the last whole vector with another kernel."""


def split_kernels(kernels: Kernels, group: Group, d_vocab: int) -> Kernels:
    """``kernels`` for layers that hold one rank's part of the weights."""
    vocabulary = group.split.parts(d_vocab)

    def look_up(weight: Tensor, ids: Tensor) -> Tensor:
        own = vocabulary[group.split.rank]
        here = (ids >= own.start) & (ids < own.stop)  # [n]
        rows = torch.index_select(weight, 0, (ids - own.start).clamp(0, len(own) - 1))
        return group.add(rows.masked_fill(~here[:, None], 0.0))  # [n, d], one of the terms not 0

    def unembed(weight: Tensor, softcap: float | None) -> Unembed:
        return SplitUnembed(kernels.unembed(weight, softcap), vocabulary, group)

    return replace(kernels, add_shares=group.add, look_up=look_up, unembed=unembed)


class SplitUnembed:
    """An ``Unembed`` of which each rank computes its columns; all of them get the whole outcome."""

    def __init__(self, own: Unembed, vocabulary: Sequence[range], group: Group) -> None:
        """``own``: of this rank's part of the ``vocabulary``."""
        self._unembed = own
        self._own = vocabulary[group.split.rank]
        self._widths = [len(part) for part in vocabulary]
        self._group = group

    def __call__(
        self, x: Tensor, count: int, keep: Sequence[int], targets: Tensor | None = None
    ) -> LogitRows:
        """See ``Unembed``."""
        counts = [min(count, width) for width in self._widths]
        if targets is None:
            found = self._unembed(x, counts[self._group.split.rank], keep)
            kept = found.kept
        else:  # how many logits are larger is counted here: the rank that has it may be another
            everything = range(len(x))
            own_targets = torch.zeros_like(targets)
            found = self._unembed(x, counts[self._group.split.rank], everything, own_targets)
            kept = found.kept[list(keep)]
        values, ids = self._largest(found, counts, count)
        parts = torch.stack(self._group.gather(found.log_totals))  # [ranks, R]
        log_totals, log_weights = _merge(parts)
        return LogitRows(
            values,
            ids,
            log_totals,
            self._group.gather_columns(kept, self._widths),
            None if targets is None else self._look_at(found, targets, log_weights),
        )

    def _largest(
        self, found: LogitRows, counts: Sequence[int], count: int
    ) -> tuple[Tensor, Tensor]:
        """The largest of what the ranks have found; of equals the lower id, so the lower rank."""
        values = self._group.gather_columns(found.values, counts)  # [R, sum of counts]
        ids = self._group.gather_columns(found.ids + self._own.start, counts)
        values, order = values.sort(dim=1, descending=True, stable=True)
        # Copies: what a request keeps of its row must not keep all that was sorted.
        return values[:, :count].clone(), ids.gather(1, order[:, :count])

    def _look_at(self, found: LogitRows, targets: Tensor, log_weights: Tensor) -> Targets:
        """What is known of ``targets`` int64 [R]; all rows of the rank's columns were kept."""
        logits, own = found.kept, self._own  # [R, columns]
        ids = targets.clamp(min=0) - own.start
        inside = ((ids >= 0) & (ids < len(own)))[:, None]  # [R, 1]
        ids = ids.clamp(-1, len(own))[:, None]
        column = ids.clamp(0, len(own) - 1)
        chosen = self._group.add(logits.gather(1, column).masked_fill(~inside, 0.0))  # [R, 1]
        lower = torch.arange(len(own), device=logits.device) < ids
        before = (logits > chosen).sum(1) + ((logits == chosen) & lower).sum(1)
        assert found.targets is not None
        entropies = torch.stack(self._group.gather(found.targets.entropies))  # [ranks, R]
        return Targets(chosen[:, 0], self._group.add(before), _entropy(entropies, log_weights))


def _merge(parts: Tensor) -> tuple[Tensor, Tensor]:
    """log(sum(exp)) of whole rows float32 [R], from those of each rank's columns [ranks, R].

    Beside it the logarithm of each rank's weight in a row: float64 [ranks, R + some].
    """
    padded = _padded(parts)
    largest = padded.amax(0)
    totals = largest + (padded - largest).exp().sum(0).log()
    return totals.float()[: parts.shape[1]], padded - totals


def _entropy(parts: Tensor, log_weights: Tensor) -> Tensor:
    """The entropy of whole rows: that within each rank's columns, and that of the choice of one."""
    terms = log_weights.exp() * (_padded(parts) - log_weights)
    return terms.nan_to_num(0.0).sum(0).float()[: parts.shape[1]]


def _padded(parts: Tensor) -> Tensor:
    """[ranks, R] in float64, R in whole vectors."""
    rows = parts.shape[1]
    return F.pad(parts.double(), (0, math.ceil(rows / _VECTOR) * _VECTOR - rows))
