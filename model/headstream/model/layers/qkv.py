"""Queries, keys and values of all heads from one product."""

from __future__ import annotations

from torch import Tensor

from headstream.model.attention.base import AttentionSpec
from headstream.model.kernels import Kernels
from headstream.model.kernels.turn_heads import Turn
from headstream.model.layers.linear import LinearWeights


class QKV:
    """x [N, d] -> q [N, H, D], k [N, G, D], v [N, G, D], the heads of q and k normed and rotated.

    The three are views of one matrix [N, (H + 2G) * D], so their rows are strided.
    """

    def __init__(
        self, fused: LinearWeights, spec: AttentionSpec, turn: Turn | None, kernels: Kernels
    ) -> None:
        """``turn``: what happens to the heads of q and k; None: nothing."""
        self._linear = kernels.linear(fused.weight, fused.bias)
        self._spec = spec
        self._turn = turn
        self._turn_heads = kernels.turn_heads
        self._heads = [spec.n_heads, spec.n_kv_heads, spec.n_kv_heads]

    def __call__(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project, turn the heads by ``positions`` int64 [N], cut."""
        fused = self._linear(x)  # [N, (H + 2G) * D]
        if self._turn is not None:
            self._turn_heads(self._spec, fused, self._turn, positions)
        heads = fused.unflatten(-1, (-1, self._spec.d_head))  # [N, H + 2G, D]
        q, k, v = heads.split(self._heads, dim=1)
        return q, k, v
