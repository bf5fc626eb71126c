"""The feed-forward half of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from headstream.model.layers.activation import Activation
from headstream.model.layers.linear import LinearWeights

if TYPE_CHECKING:  # families import this file; only the type's name is needed here
    from headstream.model.families.base import MakeLinear


class MLP:
    """Two linears with an activation between (Vaswani et al. 2017, arXiv:1706.03762).

    x [N, d] -> [N, d].
    """

    def __init__(
        self,
        up: LinearWeights,
        down: LinearWeights,
        activation: Activation,
        make_linear: MakeLinear,
    ) -> None:
        self._up = make_linear(up.weight, up.bias)
        self._down = make_linear(down.weight, down.bias)
        self._activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """Widen, activate, narrow."""
        return self._down(self._activation(self._up(x)))


class GatedMLP:
    """Gated linear unit (Shazeer 2020, arXiv:2002.05202); gate and up are one product.

    x [N, d] -> [N, d].
    """

    def __init__(
        self,
        gate: LinearWeights,
        up: LinearWeights,
        down: LinearWeights,
        activation: Activation,
        make_linear: MakeLinear,
    ) -> None:
        gate_up = LinearWeights.fuse(gate, up)
        self._gate_up = make_linear(gate_up.weight, gate_up.bias)
        self._down = make_linear(down.weight, down.bias)
        self._activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """Widen twice, multiply the one by the activated other, narrow."""
        gate, up = self._gate_up(x).chunk(2, dim=-1)  # [N, f] each
        return self._down(self._activation(gate) * up)
