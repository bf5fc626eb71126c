"""Activations: right, and the same bits whoever is beside a row."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from headstream.model.errors import UnsupportedModelError
from headstream.model.layers.activation import Activation

NAMES = ["gelu", "gelu_tanh", "silu"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [48, 100, 2048])  # 100 leaves a rest in every vector width
def test_a_row_does_not_depend_on_its_neighbours(name: str, width: int, dtype: torch.dtype) -> None:
    activate = Activation(name)
    x = (torch.randn(700, 2 * width, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    torch.set_num_threads(1)
    alone = torch.cat([activate(row[None, :width]) for row in x])
    for threads in (1, 2, 3, 5):  # more than two, and no power of two: odd shares
        torch.set_num_threads(threads)
        for rows in (1, 2, 7, 33, 128, 257, 700):
            assert torch.equal(activate(x[:rows].chunk(2, dim=-1)[0]), alone[:rows])
            assert torch.equal(activate(x[:rows, :width].contiguous()), alone[:rows])


def test_values() -> None:
    x = torch.linspace(-6, 6, 101).view(1, 101)
    torch.testing.assert_close(Activation("gelu")(x), F.gelu(x.double()).float())
    tanh = F.gelu(x.double(), approximate="tanh").float()
    torch.testing.assert_close(Activation("gelu_tanh")(x), tanh)
    torch.testing.assert_close(Activation("silu")(x), F.silu(x.double()).float())


def test_no_rows() -> None:
    assert Activation("silu")(torch.empty(0, 8)).shape == (0, 8)


def test_unknown_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"relu2.*known: gelu"):
        Activation("relu2")
