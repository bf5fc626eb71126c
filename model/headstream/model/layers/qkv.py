"""Queries, keys and values of all heads from one product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from headstream.model.attention.base import AttentionSpec
from headstream.model.layers.linear import LinearWeights

if TYPE_CHECKING:  # families import this file; only the type's name is needed here
    from headstream.model.families.base import MakeLinear


class QKV:
    """x [N, d] -> q [N, H, D], k [N, G, D], v [N, G, D].

    The three are views of one matrix [N, (H + 2G) * D], so their rows are strided.
    """

    def __init__(self, fused: LinearWeights, spec: AttentionSpec, make_linear: MakeLinear) -> None:
        self._linear = make_linear(fused.weight, fused.bias)
        self._heads = [spec.n_heads, spec.n_kv_heads, spec.n_kv_heads]
        self._d_head = spec.d_head

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project, then cut into heads."""
        heads = self._linear(x).unflatten(-1, (-1, self._d_head))  # [N, H + 2G, D]
        q, k, v = heads.split(self._heads, dim=1)
        return q, k, v
