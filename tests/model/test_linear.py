"""Packed linears: right, and the same bits for a row however many rows share the call."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headstream.model.kernels import Kernels, onednn
from headstream.model.kernels.linear import MakeLinear, make_linear_torch
from headstream.model.layers.linear import LinearWeights

SHAPES = [
    (640, 1536),  # K, out: Gemma 3 270M's layers
    (2048, 640),
    (1536, 256),  # a long sum
    (4096, 64),
    (384, 384),  # MiniLM
    (100, 33),  # no multiple of anything
    (17, 5),
    (1, 1),
    (64, 20011),  # an unembedding: many outputs
]


@pytest.fixture
def make_linear(kernels: Kernels) -> MakeLinear:
    return kernels.linear


@pytest.fixture
def packed(kernels: Kernels, dtype: torch.dtype) -> MakeLinear:
    """A linear that packs its weight and gives a row the same bits in every batch."""
    if kernels.name == "torch" and not onednn.works(dtype):
        pytest.skip("oneDNN's packed linear does not work here: F.linear stands in")
    return kernels.linear


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_product_is_right(
    shape: tuple[int, int], with_bias: bool, dtype: torch.dtype, make_linear: MakeLinear
) -> None:
    width, out = shape
    weight = numbers(out, width, dtype=dtype)
    bias = numbers(out, dtype=dtype, seed=1) * 30 if with_bias else None
    linear = make_linear(weight, bias)
    for rows in (1, 2, 37):
        x = numbers(rows, width, dtype=dtype, seed=rows)
        exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        y = linear(x)
        assert y.dtype == dtype
        assert y.shape == (rows, out)
        # A sum of `width` products is near sqrt(width); bfloat16 rounds the result alone.
        unit = 2**-8 if dtype == torch.bfloat16 else 2**-17
        torch.testing.assert_close(y.double(), exact, atol=unit * width**0.5, rtol=unit)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_in_every_batch(
    shape: tuple[int, int], with_bias: bool, dtype: torch.dtype, packed: MakeLinear
) -> None:
    width, out = shape
    linear = packed(
        numbers(out, width, dtype=dtype),
        numbers(out, dtype=dtype, seed=1) if with_bias else None,
    )
    x = numbers(512, width, dtype=dtype, seed=2)
    many = linear(x)
    for rows in (*range(1, 71), 255, 256, 257):
        assert torch.equal(linear(x[:rows]), many[:rows]), rows
        assert torch.equal(linear(x[-rows:]), many[-rows:]), rows  # at another place in the batch


def test_number_of_threads_changes_no_bit(dtype: torch.dtype, native_kernels: Kernels) -> None:
    linear = native_kernels.linear(numbers(1000, 640, dtype=dtype), None)
    x = numbers(77, 640, dtype=dtype, seed=1)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(linear(x))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_one_row_is_no_view_of_a_wider_one(dtype: torch.dtype, make_linear: MakeLinear) -> None:
    linear = make_linear(numbers(8, 16, dtype=dtype), None)
    assert linear(numbers(1, 16, dtype=dtype)).shape == (1, 8)


def test_no_rows(dtype: torch.dtype, make_linear: MakeLinear) -> None:
    linear = make_linear(numbers(8, 16, dtype=dtype), numbers(8, dtype=dtype))
    assert linear(numbers(0, 16, dtype=dtype)).shape == (0, 8)


def test_inputs_need_not_be_contiguous(dtype: torch.dtype, make_linear: MakeLinear) -> None:
    weight = numbers(24, 16, dtype=dtype)
    x = numbers(9, 48, dtype=dtype)
    expected = make_linear(weight, None)(x[:, 16:32].contiguous())
    assert torch.equal(make_linear(weight, None)(x[:, 16:32]), expected)
    assert torch.equal(make_linear(weight, None)(x[:, 16:32].T.contiguous().T), expected)
    transposed = numbers(16, 24, dtype=dtype).T
    expected = make_linear(transposed.contiguous(), None)(x[:, :16])
    assert torch.equal(make_linear(transposed, None)(x[:, :16]), expected)
    assert torch.equal(
        make_linear(weight, None)(x[:1, 16:32]), make_linear(weight, None)(x[:2, 16:32])[:1]
    )


def test_the_weight_may_be_freed_or_overwritten(dtype: torch.dtype, packed: MakeLinear) -> None:
    weight = numbers(24, 16, dtype=dtype)
    x = numbers(3, 16, dtype=dtype)
    linear = packed(weight, None)
    before = linear(x)
    weight.zero_()
    assert torch.equal(linear(x), before)


EXACT = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("activation", EXACT)
@pytest.mark.parametrize(("width", "out"), [(384, 1536), (64, 96), (10, 7), (7, 33), (2, 1)])
def test_activated_product(  # noqa: PLR0917
    width: int, out: int, activation: str, with_bias: bool, dtype: torch.dtype, kernels: Kernels
) -> None:
    weights = LinearWeights(
        numbers(out, width, dtype=dtype), numbers(out, dtype=dtype, seed=1) if with_bias else None
    )
    linear = kernels.activated(weights, activation)
    x = numbers(150, width, dtype=dtype, seed=5) / width**0.5
    bias = None if weights.bias is None else weights.bias.double()
    exact = EXACT[activation](F.linear(x.double(), weights.weight.double(), bias))
    y = linear(x)
    assert y.dtype == dtype
    unit = 2**-6 if dtype == torch.bfloat16 else 2**-17
    torch.testing.assert_close(y.double(), exact, atol=unit, rtol=unit)
    if kernels.name == "native":
        for row in (0, 77, 149):
            assert torch.equal(linear(x[row : row + 1])[0], y[row])


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("activation", EXACT)
@pytest.mark.parametrize(("width", "out"), [(640, 2048), (64, 96), (10, 7), (7, 32), (2, 32)])
def test_gated_product(  # noqa: PLR0917
    width: int, out: int, activation: str, with_bias: bool, dtype: torch.dtype, kernels: Kernels
) -> None:
    gate, up = (
        LinearWeights(
            numbers(out, width, dtype=dtype, seed=seed),
            numbers(out, dtype=dtype, seed=seed + 2) if with_bias else None,
        )
        for seed in (0, 1)
    )
    linear = kernels.gated(gate, up, activation)
    x = numbers(150, width, dtype=dtype, seed=5) / width**0.5
    halves = [
        F.linear(x.double(), w.weight.double(), None if w.bias is None else w.bias.double())
        for w in (gate, up)
    ]
    exact = EXACT[activation](halves[0]) * halves[1]
    y = linear(x)
    assert y.dtype == dtype
    unit = 2**-6 if dtype == torch.bfloat16 else 2**-17
    torch.testing.assert_close(y.double(), exact, atol=unit, rtol=unit)
    if kernels.name == "native":
        for row in (0, 77, 149):
            assert torch.equal(linear(x[row : row + 1])[0], y[row])


class _Elsewhere:
    """A torch without, or with other, private operators."""

    def __init__(self, **operators: object) -> None:
        self.ops = SimpleNamespace(mkldnn=SimpleNamespace(**operators))

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


def _batch_dependent(x: Tensor, weight: Tensor, bias: Tensor, *_: object) -> Tensor:
    return F.linear(x, weight, bias) * (1 + 1e-6 * x.shape[0])


def _imprecise(x: Tensor, weight: Tensor, bias: Tensor, *_: object) -> Tensor:
    return F.linear(x.double().bfloat16(), weight.bfloat16(), bias.bfloat16()).float()


@pytest.mark.parametrize("run", [None, _batch_dependent, _imprecise])
def test_self_check_falls_back_to_the_public_operator(
    run: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = {"_reorder_linear_weight": lambda w, _: w, "_linear_pointwise": run} if run else {}
    monkeypatch.setattr(onednn, "torch", _Elsewhere(**operators))
    onednn.works.cache_clear()
    try:
        assert not onednn.works(torch.float32)
        weight, bias = numbers(24, 16, dtype=torch.float32), numbers(24, dtype=torch.float32)
        x = numbers(5, 16, dtype=torch.float32)
        assert torch.equal(make_linear_torch(weight, bias)(x), F.linear(x, weight, bias))
    finally:
        onednn.works.cache_clear()
