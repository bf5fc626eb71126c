"""The nonlinearity of an MLP: right, and the same bits whoever is beside a row."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headstream.model.errors import UnsupportedModelError
from headstream.model.kernels import TORCH_KERNELS, Kernels
from headstream.model.kernels.gate import ACTIVATIONS
from headstream.model.layers.linear import LinearWeights
from headstream.model.layers.mlp import MLP, GatedMLP

WIDTHS = [48, 100, 2048]  # 100 leaves a rest in every vector width


def numbers(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(rows, width, generator=torch.Generator().manual_seed(width)) * 3).to(dtype)


def exact(name: str, x: Tensor) -> Tensor:
    functions = {
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
    }
    return functions[name](x.double())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_row_does_not_depend_on_its_neighbours(
    name: str, width: int, gated: bool, dtype: torch.dtype, kernels: Kernels
) -> None:
    x = numbers(700, 2 * width if gated else width, dtype)
    torch.set_num_threads(1)
    alone = torch.cat([kernels.gate(name, row[None], gated) for row in x])
    for threads in (1, 2, 3, 5):  # more than two, and no power of two: odd shares
        torch.set_num_threads(threads)
        for rows in (1, 2, 7, 33, 128, 257, 700):
            assert torch.equal(kernels.gate(name, x[:rows], gated), alone[:rows])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values(name: str, dtype: torch.dtype, kernels: Kernels) -> None:
    edge = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, 90.0, -90.0])
    x = torch.cat([torch.linspace(-12, 12, 992), edge]).to(dtype).view(10, 100)
    y = kernels.gate(name, x, False)
    assert y.dtype == dtype
    unit = 2**-8 if dtype == torch.bfloat16 else 2**-20
    torch.testing.assert_close(y.double(), exact(name, x), atol=1e-6, rtol=unit)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gated(name: str, dtype: torch.dtype, kernels: Kernels) -> None:
    x = numbers(40, 200, dtype)
    first, second = x.double().chunk(2, dim=1)
    unit = 2**-7 if dtype == torch.bfloat16 else 2**-19  # torch rounds between the two
    y = kernels.gate(name, x, True)
    torch.testing.assert_close(y.double(), exact(name, first) * second, atol=1e-5, rtol=unit)


def test_what_is_not_a_number_stays_so(dtype: torch.dtype, kernels: Kernels) -> None:
    x = numbers(3, 64, dtype)
    x[1, 5] = torch.nan
    y = kernels.gate("silu", x, False)
    assert y.isnan().nonzero().tolist() == [[1, 5]]


def test_no_rows(kernels: Kernels) -> None:
    assert kernels.gate("silu", torch.empty(0, 8), False).shape == (0, 8)
    assert kernels.gate("silu", torch.empty(0, 8), True).shape == (0, 4)


def test_unknown_name() -> None:
    linear = LinearWeights(torch.zeros(2, 2), None)
    with pytest.raises(UnsupportedModelError, match=r"relu2.*known: gelu"):
        MLP(linear, linear, "relu2", TORCH_KERNELS)
    with pytest.raises(UnsupportedModelError, match=r"relu2.*known: gelu"):
        GatedMLP(linear, linear, linear, "relu2", TORCH_KERNELS)
