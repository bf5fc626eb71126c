"""Logit rows and what is found in them: the native kernel and its torch twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from headstream.model.kernels import build
from headstream.model.kernels.int8 import Int8Weight
from headstream.model.kernels.library import check, functions, pointer
from headstream.model.kernels.linear import Linear, MakeLinear, make_linear_torch
from headstream.model.kernels.panels import PackPanels

_SLICE = 32  # rows whose logits the twin holds at once


class Targets(NamedTuple):
    """What is known of one chosen token of each of R rows; nothing where its id is negative."""

    logits: Tensor  # float32 [R]
    ranks: Tensor  # int64 [R] tokens before it: with a larger logit, or an equal one and a lower id
    entropies: Tensor  # float32 [R] of the whole row, in nats


class LogitRows(NamedTuple):
    """What is found in R rows of logits."""

    values: Tensor  # float32 [R, K] the largest, largest first
    ids: Tensor  # int64 [R, K] their token ids; the lower id first among equals
    log_totals: Tensor  # float32 [R] log(sum(exp(row)))
    kept: Tensor  # float32 [rows kept, V]
    targets: Targets | None


class Unembed(Protocol):
    """An unembedding, packed for the device."""

    def __call__(
        self, x: Tensor, count: int, keep: Sequence[int], targets: Tensor | None = None
    ) -> LogitRows:
        """The logits of rows ``x`` [R, d], in float32 whatever the dtype of x.

        ``count``: K, at most V. ``keep``: the rows that are wanted whole, ascending. ``targets``:
        int64 [R] token ids whose logits and ranks are wanted, negative for rows without.
        """
        ...


MakeUnembed = Callable[[Tensor, float | None], Unembed]
"""(weight [V, d], softcap): logits become softcap * tanh(logits / softcap)."""


def make_unembed_torch(
    weight: Tensor, softcap: float | None, *, make_linear: MakeLinear = make_linear_torch
) -> Unembed:
    """The twin of the native unembedding, for any device."""
    return _TorchUnembed(_wide_product(weight, make_linear), softcap)


def make_unembed_int8_torch(weight: Tensor, softcap: float | None) -> Unembed:
    """The twin of the native unembedding of int8 weights."""
    return make_unembed_torch(Int8Weight.quantize(weight).dequantize(), softcap)


def _wide_product(weight: Tensor, make_linear: MakeLinear) -> Linear:
    """A float32 product of weights that may be narrower: on CPU they are widened for it."""
    if weight.device.type == "cuda" and weight.dtype != torch.float32:
        return lambda x: torch.mm(x, weight.t(), out_dtype=torch.float32)
    linear = make_linear(weight.float(), None)
    return lambda x: linear(x.float())


class _TorchUnembed:
    def __init__(self, product: Linear, softcap: float | None) -> None:
        self._product = product
        self._softcap = softcap

    def __call__(
        self, x: Tensor, count: int, keep: Sequence[int], targets: Tensor | None = None
    ) -> LogitRows:
        parts: list[LogitRows] = []
        for begin in range(0, max(1, x.shape[0]), _SLICE):
            end = begin + _SLICE
            here = [row - begin for row in keep if begin <= row < end]
            ids = None if targets is None else targets[begin:end]
            parts.append(_look_through(self._logits(x[begin:end]), count, here, ids))
        chosen = [part.targets for part in parts if part.targets is not None]
        values, token_ids, log_totals, kept = _join([part[:4] for part in parts])
        return LogitRows(
            values, token_ids, log_totals, kept, Targets(*_join(chosen)) if chosen else None
        )

    def _logits(self, x: Tensor) -> Tensor:
        logits = self._product(x)  # [slice, V]
        if self._softcap is None:
            return logits
        return torch.tanh(logits / self._softcap) * self._softcap


def _join(parts: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def _look_through(logits: Tensor, count: int, keep: list[int], targets: Tensor | None) -> LogitRows:
    values, ids = logits.sort(dim=1, descending=True, stable=True)
    # Copies: what a request keeps of its row must not keep all sorted rows.
    leading = values[:, :count].clone(), ids[:, :count].clone()
    below = (logits - values[:, :1]).double().clamp(min=-1e4)  # [slice, V]
    weights = below.exp()
    # Both in one call: the lone sum of a lone row would be split over the threads.
    totals, weighted = torch.stack([weights, weights * below]).sum(dim=2)  # [slice] each
    log_totals = values[:, 0].double() + totals.log()
    entropies = totals.log() - weighted / totals
    found = None if targets is None else look_at(logits, targets, entropies.float())
    return LogitRows(*leading, log_totals.float(), logits[keep], found)


def look_at(logits: Tensor, targets: Tensor, entropies: Tensor) -> Targets:
    """What is known of ``targets`` int64 [R] in rows of ``logits`` [R, V], with torch."""
    ids = targets.clamp(min=0)[:, None]  # [R, 1]
    chosen = logits.gather(1, ids)
    lower = torch.arange(logits.shape[1], device=logits.device) < ids
    ranks = (logits > chosen).sum(1) + ((logits == chosen) & lower).sum(1)
    return Targets(chosen[:, 0], ranks, entropies)


class NativeUnembed:
    """The compiled unembedding."""

    def __init__(self, cache_dir: Path, pack: PackPanels) -> None:
        """``pack`` decides how weights are stored.

        Raises:
            KernelUnavailableError: it cannot be built here; use the twin.
        """
        library = build.load(f"unembed{pack.suffix}", cache_dir)
        self._kernels = functions(library, "unembed", "pppiiii" + "fi" + "ppppppppp")
        self._pack = pack

    def __call__(self, weight: Tensor, softcap: float | None) -> Unembed:
        """A ``MakeUnembed``."""
        d_vocab, d_model = weight.shape
        if d_model % 2:
            twin = make_unembed_int8_torch if self._pack.int8 else make_unembed_torch
            return twin(weight, softcap)
        kernel, panels = self._kernels[weight.dtype], self._pack(weight)

        def unembed(
            x: Tensor, count: int, keep: Sequence[int], targets: Tensor | None = None
        ) -> LogitRows:
            if x.stride(1) != 1:
                x = x.contiguous()
            rows = x.shape[0]
            kept_at = torch.full((rows,), -1, dtype=torch.int64)
            kept_at[list(keep)] = torch.arange(len(keep))
            found = LogitRows(
                values=torch.empty(rows, count),
                ids=torch.empty(rows, count, dtype=torch.int64),
                log_totals=torch.empty(rows),
                kept=torch.empty(len(keep), d_vocab),
                targets=None if targets is None else _empty_targets(rows),
            )
            status = kernel(
                *(x.data_ptr(), panels.numbers.data_ptr(), pointer(panels.scales)),
                *(rows, x.stride(0), d_model, d_vocab),
                *(softcap or 0.0, count),
                *(kept_at.data_ptr(), pointer(targets), found.kept.data_ptr()),
                *(found.values.data_ptr(), found.ids.data_ptr(), found.log_totals.data_ptr()),
                *(pointer(tensor) for tensor in found.targets or (None, None, None)),
            )
            check(status, "unembed")
            return found

        return unembed


def _empty_targets(rows: int) -> Targets:
    return Targets(torch.zeros(rows), torch.zeros(rows, dtype=torch.int64), torch.zeros(rows))
