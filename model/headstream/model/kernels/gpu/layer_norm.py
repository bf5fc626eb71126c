"""LayerNorm, alone or of a sum, on a GPU: one program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from headstream.model.kernels.layer_norm import Affine


def layer_norm(x: Tensor, affine: Affine) -> Tensor:
    """A ``LayerNorm``."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _run(x, None, affine, out)
    return out


def post_norm(resid: Tensor, y: Tensor, affine: Affine) -> None:
    """A ``PostNorm``."""
    _run(resid, y, affine, resid)


def _run(x: Tensor, y: Tensor | None, affine: Affine, out: Tensor) -> None:
    rows, d = x.shape
    if rows == 0:
        return
    block = triton.next_power_of_2(d)
    _norm[(rows,)](
        x, y, affine.gain, affine.bias, out, affine.eps,
        D=d, BLOCK=block, num_warps=min(16, max(1, block // 256)),
    )  # fmt: skip


@triton.jit
def _norm(x, y, gain, bias, out, eps, D: tl.constexpr, BLOCK: tl.constexpr):
    """Norm of x, or of x + y."""
    column = tl.arange(0, BLOCK)
    inside = column < D
    place = tl.program_id(0).to(tl.int64) * D + column
    row = tl.load(x + place, inside, 0.0).to(tl.float32)
    if y is not None:
        row += tl.load(y + place, inside, 0.0).to(tl.float32)
    row = tl.where(inside, row - tl.sum(row, 0) / D, 0.0)
    row *= tl.rsqrt(tl.sum(row * row, 0) / D + eps)
    row *= tl.load(gain + column, inside, 0.0)
    if bias is not None:
        row += tl.load(bias + column, inside, 0.0)
    tl.store(out + place, row.to(out.dtype.element_ty), inside)
