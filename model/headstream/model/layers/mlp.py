"""The feed-forward half of a layer."""

from __future__ import annotations

from torch import Tensor

from headstream.model.errors import UnsupportedModelError
from headstream.model.kernels import Kernels
from headstream.model.kernels.gate import ACTIVATIONS
from headstream.model.layers.linear import LinearWeights
from headstream.model.probe import Probe


class MLP:
    """Two linears with an activation between (Vaswani et al. 2017, arXiv:1706.03762).

    x [N, d] -> [N, d].
    """

    def __init__(
        self, up: LinearWeights, down: LinearWeights, activation: str, kernels: Kernels
    ) -> None:
        """Raises UnsupportedModelError: an unknown activation."""
        self._up = kernels.activated(up, _known(activation))
        self._down = kernels.closing(down)

    def __call__(self, x: Tensor, probe: Probe) -> Tensor:
        """Widen, activate, narrow."""
        return self._down(probe("mlp_post", self._up(x)))


class GatedMLP:
    """Gated linear unit (Shazeer 2020, arXiv:2002.05202).

    x [N, d] -> [N, d].
    """

    def __init__(
        self,
        gate: LinearWeights,
        up: LinearWeights,
        down: LinearWeights,
        activation: str,
        kernels: Kernels,
    ) -> None:
        """Raises UnsupportedModelError: an unknown activation."""
        self._gated = kernels.gated(gate, up, _known(activation))
        self._down = kernels.closing(down)

    def __call__(self, x: Tensor, probe: Probe) -> Tensor:
        """Widen twice, multiply the one by the activated other, narrow."""
        return self._down(probe("mlp_post", self._gated(x)))


def _known(activation: str) -> str:
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModelError(f"activation {activation!r} is not supported (known: {known})")
    return activation
