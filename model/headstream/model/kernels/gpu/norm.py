"""RMSNorm and the additions around it on a GPU: one program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from headstream.model.kernels.norm import Gain


def rms_norm(x: Tensor, gain: Gain) -> Tensor:
    """An ``RmsNorm``."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _run(x, None, None, gain, out)
    return out


def add(resid: Tensor, y: Tensor, y_gain: Gain | None) -> None:
    """An ``Add``."""
    _run(resid, y, y_gain, None, None)


def add_norm(resid: Tensor, y: Tensor, y_gain: Gain | None, gain: Gain) -> Tensor:
    """An ``AddNorm``."""
    out = torch.empty_like(resid)
    _run(resid, y, y_gain, gain, out)
    return out


def _run(
    resid: Tensor, y: Tensor | None, y_gain: Gain | None, gain: Gain | None, out: Tensor | None
) -> None:
    rows, d = resid.shape
    if rows == 0:
        return
    block = triton.next_power_of_2(d)
    _add_norm[(rows,)](
        resid, y, y_gain and y_gain.values, gain and gain.values, out,
        y_gain.eps if y_gain else 0.0, gain.eps if gain else 0.0,
        D=d, BLOCK=block, num_warps=min(16, max(1, block // 256)),
    )  # fmt: skip


@triton.jit
def _add_norm(resid, y, y_gain, gain, out, y_eps, eps, D: tl.constexpr, BLOCK: tl.constexpr):
    """Resid += y, or y normed; out = resid, normed. What is None is left out."""
    column = tl.arange(0, BLOCK)
    inside = column < D
    place = tl.program_id(0).to(tl.int64) * D + column
    x = tl.load(resid + place, inside, 0.0).to(tl.float32)
    if y is not None:
        term = tl.load(y + place, inside, 0.0).to(tl.float32)
        if y_gain is not None:
            term *= tl.rsqrt(tl.sum(term * term, 0) / D + y_eps)
            term *= tl.load(y_gain + column, inside, 0.0)
        added = (x + term).to(resid.dtype.element_ty)
        tl.store(resid + place, added, inside)
        x = added.to(tl.float32)
    if out is not None:
        x *= tl.rsqrt(tl.sum(x * x, 0) / D + eps)
        x *= tl.load(gain + column, inside, 0.0)
        tl.store(out + place, x.to(out.dtype.element_ty), inside)
