"""Packed linears: right, and the same bits for a row however many rows share the call."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headstream.model import linear as linear_module
from headstream.model.linear import bf16_is_fast, make_linear, onednn_works

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


@pytest.fixture(params=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if request.param == "fp32":
        return torch.float32
    if not bf16_is_fast():
        pytest.skip("this processor does not multiply bfloat16 natively: it is not packed")
    return torch.bfloat16


@pytest.fixture
def packed(dtype: torch.dtype) -> torch.dtype:
    if not onednn_works(dtype):
        pytest.skip("oneDNN's packed linear does not work here: F.linear stands in")
    return dtype


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_product_is_right(shape: tuple[int, int], with_bias: bool, dtype: torch.dtype) -> None:
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
    shape: tuple[int, int], with_bias: bool, packed: torch.dtype
) -> None:
    width, out = shape
    linear = make_linear(
        numbers(out, width, dtype=packed),
        numbers(out, dtype=packed, seed=1) if with_bias else None,
    )
    x = numbers(512, width, dtype=packed, seed=2)
    many = linear(x)
    for rows in (*range(1, 71), 255, 256, 257):
        assert torch.equal(linear(x[:rows]), many[:rows]), rows
        assert torch.equal(linear(x[-rows:]), many[-rows:]), rows  # at another place in the batch


def test_one_row_is_no_view_of_a_wider_one(packed: torch.dtype) -> None:
    linear = make_linear(numbers(8, 16, dtype=packed), None)
    assert linear(numbers(1, 16, dtype=packed)).shape == (1, 8)


def test_no_rows(dtype: torch.dtype) -> None:
    linear = make_linear(numbers(8, 16, dtype=dtype), numbers(8, dtype=dtype))
    assert linear(numbers(0, 16, dtype=dtype)).shape == (0, 8)


def test_inputs_need_not_be_contiguous(dtype: torch.dtype) -> None:
    weight = numbers(24, 16, dtype=dtype)
    x = numbers(9, 48, dtype=dtype)
    expected = make_linear(weight, None)(x[:, 16:32].contiguous())
    assert torch.equal(make_linear(weight, None)(x[:, 16:32]), expected)
    transposed = numbers(16, 24, dtype=dtype).T
    expected = make_linear(transposed.contiguous(), None)(x[:, :16])
    assert torch.equal(make_linear(transposed, None)(x[:, :16]), expected)
    assert torch.equal(
        make_linear(weight, None)(x[:1, 16:32]), make_linear(weight, None)(x[:2, 16:32])[:1]
    )


def test_the_weight_may_be_freed_or_overwritten(packed: torch.dtype) -> None:
    weight = numbers(24, 16, dtype=packed)
    x = numbers(3, 16, dtype=packed)
    linear = make_linear(weight, None)
    before = linear(x)
    weight.zero_()
    assert torch.equal(linear(x), before)


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
    monkeypatch.setattr(linear_module, "torch", _Elsewhere(**operators))
    onednn_works.cache_clear()
    try:
        assert not onednn_works(torch.float32)
        weight, bias = numbers(24, 16, dtype=torch.float32), numbers(24, dtype=torch.float32)
        x = numbers(5, 16, dtype=torch.float32)
        assert torch.equal(make_linear(weight, bias)(x), F.linear(x, weight, bias))
    finally:
        onednn_works.cache_clear()
