"""Weights in eight bits: near to what they were, and multiplied exactly as they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headstream.model.device import check_quantization
from headstream.model.errors import ModelError
from headstream.model.kernels import TORCH_INT8_KERNELS, TORCH_KERNELS, Kernels, load_kernels
from headstream.model.kernels.int8 import Int8Weight
from headstream.model.kernels.unembed import LogitRows
from headstream.model.layers.linear import LinearWeights

SHAPES = [
    (640, 1536),  # K, out: Gemma 3 270M's layers
    (2048, 640),
    (100, 33),  # no multiple of anything
    (66, 48),  # an odd number of pairs
    (17, 5),  # not for the native kernels
    (2, 1),
    (64, 20011),
]


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rounded(weight: Tensor) -> Tensor:
    """Float64: the weights as they are multiplied, told apart from float32 products."""
    quantized = Int8Weight.quantize(weight)
    return quantized.numbers.double() * quantized.scales.double()[:, None]


# --- Quantizing ---


def test_no_weight_is_off_by_more_than_half_a_scale_of_its_row(dtype: torch.dtype) -> None:
    weight = numbers(20_000, 40, dtype=dtype) * torch.logspace(-20, 20, 20_000)[:, None].to(dtype)
    quantized = Int8Weight.quantize(weight)
    largest = weight.double().abs().amax(1)
    error = (quantized.dequantize().double() - weight.double()).abs().amax(1)
    assert (error <= largest / 127 / 2 * 1.0001).all()
    assert (
        error > largest / 127 / 8
    ).all()  # the scale is a row's own, and no finer than it can be
    assert torch.equal(quantized.numbers.abs().amax(1), torch.full((20_000,), 127).char())


def test_zeros_stay_zeros() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert torch.equal(Int8Weight.quantize(weight).dequantize(), weight)


def test_every_number_is_multiplied_as_it_is(dtype: torch.dtype, int8_kernels: Kernels) -> None:
    """All 255 of them, in every place of a panel, against rows of the identity."""
    weight = (torch.arange(255 * 256).reshape(255, 256) % 255 - 127).to(dtype)
    y = int8_kernels.linear(weight, None)(torch.eye(256, dtype=dtype))
    assert torch.equal(y, weight.T)


# --- Products ---


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_product_is_that_of_the_rounded_weights(
    shape: tuple[int, int], with_bias: bool, dtype: torch.dtype, int8_kernels: Kernels
) -> None:
    width, out = shape
    weight = numbers(out, width, dtype=dtype)
    bias = numbers(out, dtype=dtype, seed=1) * 30 if with_bias else None
    linear = int8_kernels.linear(weight, bias)
    twin = TORCH_INT8_KERNELS.linear(weight, bias)
    # A sum of `width` products is near sqrt(width); bfloat16 rounds the result alone.
    unit = 2**-8 if dtype == torch.bfloat16 else 2**-17
    near = unit * width**0.5
    for rows in (1, 7, 37):
        x = numbers(rows, width, dtype=dtype, seed=rows)
        exact = F.linear(x.double(), rounded(weight), None if bias is None else bias.double())
        y = linear(x)
        assert (y.dtype, y.shape) == (dtype, (rows, out))
        torch.testing.assert_close(y.double(), exact, atol=near, rtol=unit)
        torch.testing.assert_close(y, twin(x), atol=near, rtol=2 * unit)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_in_every_batch(
    shape: tuple[int, int], with_bias: bool, dtype: torch.dtype, int8_kernels: Kernels
) -> None:
    width, out = shape
    bias = numbers(out, dtype=dtype, seed=1) if with_bias else None
    linear = int8_kernels.linear(numbers(out, width, dtype=dtype), bias)
    x = numbers(300, width, dtype=dtype, seed=2)
    many = linear(x)
    for rows in (*range(1, 27), 127, 128, 129, 257):
        assert torch.equal(linear(x[:rows]), many[:rows]), rows
        assert torch.equal(linear(x[-rows:]), many[-rows:]), rows  # at another place in the batch


@pytest.mark.parametrize("rows", [3, 77])
def test_number_of_threads_changes_no_bit(
    rows: int, dtype: torch.dtype, native_int8_kernels: Kernels
) -> None:
    linear = native_int8_kernels.linear(numbers(1000, 640, dtype=dtype), None)
    x = numbers(rows, 640, dtype=dtype, seed=1)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(linear(x))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize(("width", "out"), [(640, 2048), (64, 96), (10, 7), (7, 32)])
def test_gated_product(  # noqa: PLR0917
    width: int,
    out: int,
    activation: str,
    with_bias: bool,
    dtype: torch.dtype,
    int8_kernels: Kernels,
) -> None:
    gate, up = (
        LinearWeights(
            numbers(out, width, dtype=dtype, seed=seed) * (1 + 9 * seed),
            numbers(out, dtype=dtype, seed=seed + 2) if with_bias else None,
        )
        for seed in (0, 1)
    )
    linear = int8_kernels.gated(gate, up, activation)
    x = numbers(20, width, dtype=dtype, seed=5) / width**0.5
    exact_gate, exact_up = (
        LinearWeights(rounded(w.weight), None if w.bias is None else w.bias.double())
        for w in (gate, up)
    )
    exact = TORCH_KERNELS.gated(exact_gate, exact_up, activation)(x.double())
    y = linear(x)
    unit = 2**-6 if dtype == torch.bfloat16 else 2**-17
    torch.testing.assert_close(y.double(), exact, atol=10 * unit, rtol=unit)
    for row in (0, 11, 19):
        assert torch.equal(linear(x[row : row + 1])[0], y[row])


# --- The unembedding ---


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(("d_vocab", "d_model"), [(13, 7), (700, 34), (5003, 640)])
def test_logits_are_sums_of_the_rounded_weights(
    d_vocab: int, d_model: int, softcap: float | None, dtype: torch.dtype, int8_kernels: Kernels
) -> None:
    weight, x = numbers(d_vocab, d_model, dtype=dtype), numbers(37, d_model, dtype=dtype, seed=1)
    exact = x.double() @ rounded(weight).T
    if softcap is not None:
        exact = softcap * torch.tanh(exact / softcap)
    targets = torch.arange(37) % d_vocab
    found = int8_kernels.unembed(weight, softcap)(x, 3, range(37), targets)
    torch.testing.assert_close(found.kept.double(), exact, atol=2**-15 * d_model**0.5, rtol=2**-17)
    assert found.targets is not None
    assert torch.equal(found.targets.logits, found.kept.gather(1, targets[:, None])[:, 0])
    assert torch.equal(found.values, found.kept.gather(1, found.ids))
    assert torch.equal(found.values[:, 0], found.kept.amax(1))


def _pieces(found: LogitRows) -> list[Tensor]:
    assert found.targets is not None
    return [*found[:4], *found.targets]


def test_a_row_of_logits_has_the_same_bits_in_every_batch_and_for_any_threads(
    dtype: torch.dtype, native_int8_kernels: Kernels
) -> None:
    unembed = native_int8_kernels.unembed(numbers(20_011, 66, dtype=dtype), None)
    x = numbers(300, 66, dtype=dtype, seed=1)
    targets = torch.arange(300) * 66
    many = _pieces(unembed(x, 64, range(300), targets))
    cuts = [(0, 1), (7, 8), (0, 7), (100, 164), (127, 129), (1, 300)]
    for threads, (begin, end) in enumerate(cuts, start=1):
        torch.set_num_threads(threads % 3 + 1)
        part = unembed(x[begin:end], 64, range(end - begin), targets[begin:end])
        for one, other in zip(_pieces(part), many, strict=True):
            assert torch.equal(one, other[begin:end]), (begin, end)


# --- Who runs it ---


def test_without_a_compiler_the_twins_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("PATH", "")
    assert load_kernels(tmp_path_factory.mktemp("none"), "int8") is TORCH_INT8_KERNELS


def test_it_is_refused_where_no_kernel_reads_it() -> None:
    check_quantization("int8", torch.device("cpu"))
    check_quantization("none", torch.device("cuda"))
    with pytest.raises(ModelError, match="quantization int8 is not served on cuda"):
        check_quantization("int8", torch.device("cuda"))
