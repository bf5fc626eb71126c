"""RMSNorm and the additions around it, against the equation and bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headstream.model.kernels import Kernels
from headstream.model.kernels.norm import Gain

WIDTHS = [1, 17, 64, 640]
EPS = 1e-6


def numbers(rows: int, width: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return (torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)


def gain(width: int, seed: int = 9) -> Gain:
    return Gain(torch.randn(width, generator=torch.Generator().manual_seed(seed)), EPS)


def exact_norm(x: Tensor, gain: Gain) -> Tensor:
    x = x.double()
    return x / ((x**2).mean(1, keepdim=True) + EPS).sqrt() * gain.values.double()


def assert_near(found: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    unit = 2**-8 if dtype == torch.bfloat16 else 2**-20
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, atol=unit, rtol=unit)


@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm(width: int, dtype: torch.dtype, kernels: Kernels) -> None:
    x = numbers(70, width, dtype)
    before = x.clone()
    assert_near(kernels.rms_norm(x, gain(width)), exact_norm(x, gain(width)), dtype)
    assert torch.equal(x, before)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_add_norm(width: int, normed: bool, dtype: torch.dtype, kernels: Kernels) -> None:
    resid, y = numbers(70, width, dtype), numbers(70, width, dtype, seed=1)
    y_gain = gain(width, seed=2) if normed else None
    total = resid.double() + (y.double() if y_gain is None else exact_norm(y, y_gain))
    only_added = resid.clone()
    kernels.add(only_added, y, y_gain)
    x = kernels.add_norm(resid, y, y_gain, gain(width))
    assert_near(resid, total, dtype)
    assert torch.equal(resid, only_added)
    assert_near(x, exact_norm(resid, gain(width)), dtype)  # of the sum as it is kept


def test_a_row_has_the_same_bits_in_every_batch(dtype: torch.dtype, kernels: Kernels) -> None:
    x, y = numbers(300, 640, dtype), numbers(300, 640, dtype, seed=1)
    together = kernels.rms_norm(x, gain(640))
    resid = x.clone()
    added = kernels.add_norm(resid, y, gain(640, 3), gain(640))
    for r in (0, 1, 150, 299):
        one = x[r : r + 1].clone()
        assert torch.equal(kernels.rms_norm(one, gain(640))[0], together[r])
        assert torch.equal(
            kernels.add_norm(one, y[r : r + 1], gain(640, 3), gain(640))[0], added[r]
        )
        assert torch.equal(one[0], resid[r])


def test_no_rows(dtype: torch.dtype, kernels: Kernels) -> None:
    x = numbers(0, 8, dtype)
    assert kernels.rms_norm(x, gain(8)).shape == (0, 8)
    assert kernels.add_norm(x, x, None, gain(8)).shape == (0, 8)


def test_rows_need_not_be_contiguous(dtype: torch.dtype, kernels: Kernels) -> None:
    x = numbers(9, 48, dtype)
    expected = kernels.rms_norm(x[:, 16:32].contiguous(), gain(16))
    assert torch.equal(kernels.rms_norm(x[:, 16:32], gain(16)), expected)
