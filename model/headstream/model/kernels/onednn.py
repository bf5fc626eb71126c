"""Linear layers whose weight oneDNN has reordered: what torch has of its own.

The two operators are private to torch, so they are used here only, after a self-check.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

_REFERENCE_ROWS = 64


class PackedLinear:
    """A weight in oneDNN's own layout; it can be multiplied, but not indexed or saved."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        reorder = torch.ops.mkldnn._reorder_linear_weight  # noqa: SLF001 - see the module
        self._packed = reorder(weight.contiguous(), None)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply: x [M, K] -> [M, out]."""
        if x.shape[0] == 1:
            # A single row may take another kernel, with other rounding: batch invariance asks for
            # the same one, so the row is computed twice.
            return self._run(x.expand(2, -1))[:1]
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        linear = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - see the module
        result: Tensor = linear(x.contiguous(), self._packed, self._bias, "none", [], "")
        return result


@functools.cache
def works(dtype: torch.dtype) -> bool:
    """Whether the packed path exists here, is right, and gives a row the same bits in any batch."""
    if dtype == torch.bfloat16 and not bf16_is_fast():
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_REFERENCE_ROWS, 96, generator=generator).to(dtype)
    weight = torch.randn(80, 96, generator=generator).to(dtype)
    bias = torch.randn(80, generator=generator).to(dtype)
    try:
        linear = PackedLinear(weight, bias)
        whole = linear(x)
        parts = [linear(x[:1]), linear(x[:7]), linear(x[:33])]
    except (AttributeError, RuntimeError, TypeError):
        return False
    expected = F.linear(x.double(), weight.double(), bias.double())
    tolerance = 1e-4 if dtype == torch.float32 else 1e-1  # of sums of 96 products near 10
    close = torch.allclose(whole.double(), expected, rtol=tolerance / 10, atol=tolerance)
    return close and all(torch.equal(part, whole[: part.shape[0]]) for part in parts)


def has_amx(dtype: torch.dtype) -> bool:
    """Whether this processor has matrix tiles for ``dtype``, which only oneDNN uses here."""
    capabilities = torch.cpu.get_capabilities()
    return dtype == torch.bfloat16 and bool(capabilities.get("amx_bf16")) and works(dtype)


@functools.cache
def bf16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 natively (AVX-512 BF16 or AMX)."""
    try:
        supported = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    except (AttributeError, RuntimeError):
        return False
    capabilities = torch.cpu.get_capabilities()
    return supported and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
