"""LayerNorm, alone or of a sum: the native kernels and their torch twins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from headstream.model.kernels import build
from headstream.model.kernels.library import functions, pointer


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """What a LayerNorm does with (x - mean(x)) / sqrt(variance(x) + eps)."""

    gain: Tensor  # float32 [d]
    bias: Tensor | None  # float32 [d]
    eps: float


LayerNorm = Callable[[Tensor, Affine], Tensor]
"""x [M, d] -> normed [M, d], in x's dtype; rounded once (Ba et al. 2016, arXiv:1607.06450)."""

PostNorm = Callable[[Tensor, Tensor, Affine], None]
"""(resid [M, d], y [M, d], affine): ``resid`` becomes the norm of resid + y, in place; rounded
once."""


def layer_norm_torch(x: Tensor, affine: Affine) -> Tensor:
    """The plain twin of the native kernel."""
    gain = affine.gain
    return F.layer_norm(x.float(), gain.shape, gain, affine.bias, affine.eps).to(x.dtype)


def post_norm_torch(resid: Tensor, y: Tensor, affine: Affine) -> None:
    """The plain twin of the native kernel."""
    resid.copy_(layer_norm_torch(resid.float() + y.float(), affine))


class NativeLayerNorm:
    """The compiled kernels."""

    def __init__(self, cache_dir: Path) -> None:
        """Raises KernelUnavailableError: they cannot be built here; use the twins."""
        self._norms = functions(build.load("layer_norm", cache_dir), "layer_norm", "ppiippfp")

    def layer_norm(self, x: Tensor, affine: Affine) -> Tensor:
        """A ``LayerNorm``."""
        x = x.contiguous()
        out = torch.empty_like(x)
        self._norm(x, None, affine, out)
        return out

    def post_norm(self, resid: Tensor, y: Tensor, affine: Affine) -> None:
        """A ``PostNorm``."""
        self._norm(resid, y, affine, resid)

    def _norm(self, x: Tensor, y: Tensor | None, affine: Affine, out: Tensor) -> None:
        rows, width = x.shape
        self._norms[x.dtype](
            x.data_ptr(),
            pointer(y),
            rows,
            width,
            affine.gain.data_ptr(),
            pointer(affine.bias),
            affine.eps,
            out.data_ptr(),
        )
