"""Normalisation of residual rows. All sums run in float32, whatever the weights' dtype."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from headstream.model.config import ModelConfig
from headstream.model.kernels.norm import Gain
from headstream.model.weights import Weights


class LayerNorm:
    """Layer normalisation with gain and bias (Ba et al. 2016, arXiv:1607.06450).

    x [..., d] -> [..., d] in x's dtype; the kernel itself keeps mean and variance in float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        self._weight, self._bias, self._eps = weight, bias, eps  # [d], [d]

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


def rms_gain(
    config: ModelConfig, weights: Weights, name: str, width: int, *, plus_one: bool = False
) -> Gain:
    """The gain of an RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467), from ``name.weight``.

    With ``plus_one`` the gain is 1 + w, as Gemma stores it (arXiv:2403.08295).

    Raises:
        CheckpointError: the tensor is missing or misshapen.
    """
    values = weights.take(f"{name}.weight", (width,)).float()
    return Gain(values + 1.0 if plus_one else values, config.norm_eps)
