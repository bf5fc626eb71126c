"""Attention of encoders with torch alone: rows see what is before and behind them.

A sequence is computed as a whole, so its queries, keys and values all lie in the step, and nothing
is kept. Tiles are cut by the sequence alone, so a row has the same bits whoever shares its step.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from headstream.model.attention.base import Attend, AttentionSpec
from headstream.model.attention.sdpa import attend_tile
from headstream.model.batch import PREFILL_GRID as TILE
from headstream.model.batch import PackedBatch


class WholeAttention:
    """The backend: one per model."""

    name = "sdpa"

    def __init__(self, specs: tuple[AttentionSpec, ...]) -> None:
        self._specs = specs

    def bind(self, batch: PackedBatch) -> Attend:
        """The bounds of the sequences, once for all layers."""
        bounds = list(pairwise(batch.cu_seqlens_q.tolist()))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            spec = self._specs[layer]
            z = torch.empty(q.shape, dtype=q.dtype, device=q.device)  # [N, H, D]
            for begin, end in bounds:
                rows = slice(begin, end)
                _attend_sequence(spec, q[rows], k[rows], v[rows], z[rows])
            return z

        return attend


def _attend_sequence(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, z: Tensor) -> None:
    """Fill z [n, H, D] from the q [n, H, D], k and v [n, G, D] of one sequence."""
    if spec.window is None:
        z.copy_(attend_tile(spec, q, k, v, mask=None, is_causal=False))
        return
    for begin in range(0, len(q), TILE):
        rows = slice(begin, min(begin + TILE, len(q)))
        keys = slice(max(0, begin - spec.window + 1), min(rows.stop + spec.window - 1, len(q)))
        mask = _band(spec.window, rows, keys, q.dtype)
        z[rows] = attend_tile(spec, q[rows], k[keys], v[keys], mask=mask, is_causal=False)


def _band(window: int, rows: slice, keys: slice, dtype: torch.dtype) -> Tensor:
    """[rows, keys]: 0 where a key is less than ``window`` from the row, -inf elsewhere."""
    row = torch.arange(rows.start, rows.stop).unsqueeze(1)  # [rows, 1]
    key = torch.arange(keys.start, keys.stop)  # [keys]
    far = (row - key).abs() >= window
    return torch.zeros(far.shape, dtype=dtype).masked_fill_(far, float("-inf"))
