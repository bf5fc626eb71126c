"""LayerNorm, alone and of a sum: against the equation and bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headstream.model.kernels import Kernels
from headstream.model.kernels.layer_norm import Affine

WIDTHS = [1, 17, 64, 384]
EPS = 1e-5


def numbers(rows: int, width: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, width, generator=generator) * 3 + 1).to(dtype)


def affine(width: int, *, bias: bool = True) -> Affine:
    gain, shift = numbers(2, width, torch.float32, seed=9)
    return Affine(gain, shift if bias else None, EPS)


def exact(x: Tensor, affine: Affine) -> Tensor:
    x = x.double()
    centred = x - x.mean(1, keepdim=True)
    normed = centred / ((centred**2).mean(1, keepdim=True) + EPS).sqrt() * affine.gain.double()
    return normed if affine.bias is None else normed + affine.bias.double()


def assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    unit = 2**-8 if dtype == torch.bfloat16 else 2**-18
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=unit, rtol=unit)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_layer_norm(width: int, bias: bool, dtype: torch.dtype, kernels: Kernels) -> None:
    x, terms = numbers(70, width, dtype), affine(width, bias=bias)
    before = x.clone()
    assert_near(kernels.layer_norm(x, terms), exact(x, terms), dtype)
    assert torch.equal(x, before)


@pytest.mark.parametrize("width", WIDTHS)
def test_post_norm(width: int, dtype: torch.dtype, kernels: Kernels) -> None:
    """The sum is not rounded on its way."""
    resid, y, terms = numbers(70, width, dtype), numbers(70, width, dtype, seed=1), affine(width)
    expected = exact(resid.double() + y.double(), terms)
    before = y.clone()
    kernels.post_norm(resid, y, terms)
    assert_near(resid, expected, dtype)
    assert torch.equal(y, before)


def test_a_row_has_the_same_bits_in_every_batch(dtype: torch.dtype, kernels: Kernels) -> None:
    x, y, terms = numbers(300, 384, dtype), numbers(300, 384, dtype, seed=1), affine(384)
    together = kernels.layer_norm(x, terms)
    resid = x.clone()
    kernels.post_norm(resid, y, terms)
    for r in (0, 1, 150, 299):
        one = x[r : r + 1].clone()
        assert torch.equal(kernels.layer_norm(one, terms)[0], together[r])
        kernels.post_norm(one, y[r : r + 1], terms)
        assert torch.equal(one[0], resid[r])


def test_no_rows(dtype: torch.dtype, kernels: Kernels) -> None:
    x = numbers(0, 8, dtype)
    assert kernels.layer_norm(x, affine(8)).shape == (0, 8)
    kernels.post_norm(x, x, affine(8))
