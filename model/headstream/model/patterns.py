"""Attention weights beside the ordinary kernel, from the queries and keys that it compares."""

from __future__ import annotations

import torch
from torch import Tensor

from headstream.model.attention.base import AttentionSpec


def attention_scores(
    spec: AttentionSpec, q: Tensor, positions: Tensor, k: Tensor, num_keys: int
) -> Tensor:
    """What the softmax is taken of: float32 [H, n, num_keys], -inf for keys that are not seen.

    ``q`` [n, H, D] of the ``positions`` int64 [n]; ``k`` [m, G, D] of the positions 0 to m, as both
    are compared. Keys from m on, up to ``num_keys``, come later and are not seen.
    """
    group = spec.n_heads // spec.n_kv_heads
    query = q.float().unflatten(1, (spec.n_kv_heads, group)).permute(1, 2, 0, 3)  # [G, group, n, D]
    key = k.float().permute(1, 2, 0).unsqueeze(1)  # [G, 1, D, m]
    scores = (query @ key * spec.scale).flatten(0, 1)  # [H, n, m]
    scores.masked_fill_(~_visible(spec, positions, len(k)), -torch.inf)
    later = num_keys - len(k)
    return torch.nn.functional.pad(scores, (0, later), value=-torch.inf) if later else scores


def _visible(spec: AttentionSpec, positions: Tensor, num_keys: int) -> Tensor:
    """Whether the rows at ``positions`` [n] see each of the keys: bool [n, num_keys]."""
    back = positions[:, None] - torch.arange(num_keys, device=positions.device)  # [n, num_keys]
    visible = back >= 0 if spec.causal else torch.ones_like(back, dtype=torch.bool)
    return visible if spec.window is None else visible & (back.abs() < spec.window)


class GrowingRows:
    """Rows of one sequence, layer by layer, kept as its steps compute them."""

    def __init__(self, longest: int) -> None:
        """``longest``: most positions. Memory that is not reached is not touched."""
        self._longest = longest
        self._rows: dict[int, Tensor] = {}  # layer -> [longest, ...]

    def extend(self, layer: int, start: int, rows: Tensor) -> Tensor:
        """Put ``rows`` [n, ...] behind the first ``start``; all of the layer, [start + n, ...]."""
        if layer not in self._rows:
            self._rows[layer] = rows.new_empty(self._longest, *rows.shape[1:])
        end = start + len(rows)
        self._rows[layer][start:end] = rows
        return self._rows[layer][:end]


def roll_out(pattern: Tensor, start: int, below: Tensor | None) -> Tensor:
    """How much of each token reaches the rows [start, start + n) through the layers up to this one.

    ``pattern`` [H, n, K] is the layer's: heads are averaged, and half of each row is itself, since
    the stream goes around attention. ``below`` [m, K] is the outcome of the layer below for all
    rows that these may see; None: this is the lowest. Returns [n, K]; rows sum to 1 (Abnar and
    Zuidema 2020, arXiv:2005.00928).
    """
    mixed = 0.5 * pattern.mean(0)  # [n, K]
    rows = torch.arange(len(mixed), device=mixed.device)
    mixed[rows, start + rows] += 0.5
    mixed /= mixed.sum(1, keepdim=True)
    return mixed if below is None else mixed[:, : len(below)] @ below
