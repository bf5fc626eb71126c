"""Normalisation of residual rows. All sums run in float32, whatever the weights' dtype."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


class LayerNorm:
    """Layer normalisation with gain and bias (Ba et al. 2016, arXiv:1607.06450).

    x [..., d] -> [..., d] in x's dtype; the kernel itself keeps mean and variance in float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        self._weight, self._bias, self._eps = weight, bias, eps  # [d], [d]

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


class RMSNorm:
    """Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467).

    x [..., d] -> [..., d] in x's dtype. Rounds to that dtype before the gain is applied, as Llama
    was trained.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps  # [d]

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        normed = F.rms_norm(x.float(), self._weight.shape, eps=self._eps)
        return normed.to(x.dtype) * self._weight


class GemmaRMSNorm:
    """RMSNorm whose stored weight is the gain minus one (Gemma report, arXiv:2403.08295).

    x [..., d] -> [..., d] in x's dtype. The gain 1 + w is applied in float32, before rounding.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._gain, self._eps = 1.0 + weight.float(), eps  # [d]

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.rms_norm(x.float(), self._gain.shape, self._gain, self._eps).to(x.dtype)
