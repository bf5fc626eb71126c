"""RMSNorm and the additions around it: the native kernels and their torch twins."""

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
class Gain:
    """What an RMSNorm multiplies with after it has divided by sqrt(mean(x^2) + eps)."""

    values: Tensor  # float32 [d]
    eps: float


RmsNorm = Callable[[Tensor, Gain], Tensor]
"""x [M, d] -> normed [M, d], in x's dtype; rounded once, after the gain."""

Add = Callable[[Tensor, Tensor, "Gain | None"], None]
"""(resid [M, d], y [M, d], gain of y): adds y to ``resid`` in place, normed if it has a
gain."""

AddNorm = Callable[[Tensor, Tensor, "Gain | None", Gain], Tensor]
"""The same, and returns the sum normed by the last gain [M, d]."""


def rms_norm_torch(x: Tensor, gain: Gain) -> Tensor:
    """The plain twin of the native kernel."""
    return F.rms_norm(x.float(), gain.values.shape, gain.values, gain.eps).to(x.dtype)


def add_torch(resid: Tensor, y: Tensor, y_gain: Gain | None) -> None:
    """The plain twin of the native kernel."""
    term = y.float()
    if y_gain is not None:
        term = rms_norm_torch(term, y_gain)
    resid.copy_(resid.float() + term)


def add_norm_torch(resid: Tensor, y: Tensor, y_gain: Gain | None, gain: Gain) -> Tensor:
    """The plain twin of the native kernel."""
    add_torch(resid, y, y_gain)
    return rms_norm_torch(resid, gain)


class NativeNorm:
    """The compiled kernels."""

    def __init__(self, cache_dir: Path) -> None:
        """Raises KernelUnavailableError: they cannot be built here; use the twins."""
        library = build.load("norm", cache_dir)
        self._norms = functions(library, "rms_norm", "piipfp")
        self._adds = functions(library, "add_norm", "ppiippffp")

    def rms_norm(self, x: Tensor, gain: Gain) -> Tensor:
        """An ``RmsNorm``."""
        x = x.contiguous()
        out = torch.empty_like(x)
        rows, width = x.shape
        self._norms[x.dtype](
            x.data_ptr(), rows, width, gain.values.data_ptr(), gain.eps, out.data_ptr()
        )
        return out

    def add(self, resid: Tensor, y: Tensor, y_gain: Gain | None) -> None:
        """An ``Add``."""
        self._add(resid, y, y_gain, None, None)

    def add_norm(self, resid: Tensor, y: Tensor, y_gain: Gain | None, gain: Gain) -> Tensor:
        """An ``AddNorm``."""
        out = torch.empty_like(resid)
        self._add(resid, y, y_gain, gain, out)
        return out

    def _add(
        self, resid: Tensor, y: Tensor, y_gain: Gain | None, gain: Gain | None, out: Tensor | None
    ) -> None:
        rows, width = resid.shape
        self._adds[resid.dtype](
            resid.data_ptr(),
            y.data_ptr(),
            rows,
            width,
            y_gain and y_gain.values.data_ptr(),
            gain and gain.values.data_ptr(),
            y_gain.eps if y_gain else 0.0,
            gain.eps if gain else 0.0,
            pointer(out),
        )
