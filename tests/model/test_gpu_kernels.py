"""The kernels of a GPU against their twins, on few and small inputs: without a GPU they are
interpreted, in float32. Where there is one, every other test of a kernel takes them too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attention_reference import Bench, attention_spec, exact_attention, model_config, random_text
from headstream.model.attention.base import AttentionSpec
from headstream.model.attention.kernel import KernelAttention
from headstream.model.kernels import TORCH_KERNELS, Kernels
from headstream.model.kernels.layer_norm import Affine
from headstream.model.kernels.norm import Gain
from headstream.model.kernels.turn_heads import RopeTable, Turn
from headstream.model.kv_cache import KVCache
from headstream.model.layers.linear import LinearWeights
from triton_kernels import DEVICE, gpu_kernels, reached_from_cpu


@pytest.fixture(scope="module")
def gpu() -> Kernels:
    return reached_from_cpu(gpu_kernels())


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- Products ---


@pytest.mark.parametrize("shape", [(1, 48, 640), (3, 33, 70), (70, 100, 1100), (2, 40, 512)])
@pytest.mark.parametrize("biased", [True, False])
def test_linear(shape: tuple[int, int, int], biased: bool, gpu: Kernels) -> None:
    rows, out, depth = shape
    x, weight = numbers(rows, depth), numbers(out, depth, seed=1)
    bias = numbers(out, seed=2) if biased else None
    exact = torch.nn.functional.linear(
        x.double(), weight.double(), None if bias is None else bias.double()
    )
    found = gpu.linear(weight, bias)(x)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("shape", [(2, 30, 600), (70, 30, 100)])
def test_gated(activation: str, shape: tuple[int, int, int], gpu: Kernels) -> None:
    rows, out, depth = shape
    x = numbers(rows, depth) / depth**0.5
    gate, up = (
        LinearWeights(numbers(out, depth, seed=seed), numbers(out, seed=seed)) for seed in (1, 2)
    )
    twin = TORCH_KERNELS.gated(gate, up, activation)
    torch.testing.assert_close(gpu.gated(gate, up, activation)(x), twin(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_activated(activation: str, gpu: Kernels) -> None:
    x, weights = numbers(3, 70), LinearWeights(numbers(40, 70, seed=1), numbers(40, seed=2))
    found = gpu.activated(weights, activation)(x)
    torch.testing.assert_close(found, TORCH_KERNELS.activated(weights, activation)(x))


# --- Rows ---


@pytest.mark.parametrize("width", [1, 48, 640])
@pytest.mark.parametrize("normed", [True, False])
def test_norms(width: int, normed: bool, gpu: Kernels) -> None:
    gain, own = Gain(numbers(width, seed=3), 1e-6), Gain(numbers(width, seed=4), 1e-5)
    y_gain = own if normed else None
    resid, y = numbers(3, width), numbers(3, width, seed=1)
    expected = resid.clone()
    x = TORCH_KERNELS.add_norm(expected, y, y_gain, gain)
    only_added = resid.clone()
    gpu.add(only_added, y, y_gain)
    torch.testing.assert_close(gpu.rms_norm(resid, gain), TORCH_KERNELS.rms_norm(resid, gain))
    torch.testing.assert_close(gpu.add_norm(resid, y, y_gain, gain), x)
    torch.testing.assert_close(resid, expected)
    assert torch.equal(only_added, resid)


@pytest.mark.parametrize("biased", [True, False])
def test_layer_norms(biased: bool, gpu: Kernels) -> None:
    affine = Affine(numbers(48, seed=3), numbers(48, seed=4) if biased else None, 1e-5)
    x, y = numbers(3, 48), numbers(3, 48, seed=1)
    torch.testing.assert_close(
        gpu.layer_norm(x, affine), TORCH_KERNELS.layer_norm(x, affine), atol=1e-5, rtol=1e-5
    )
    expected = x.clone()
    TORCH_KERNELS.post_norm(expected, y, affine)
    gpu.post_norm(x, y, affine)
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("half", [0, 4, 10])
def test_turned_heads(normed: bool, half: int, gpu: Kernels) -> None:
    spec = attention_spec(3, 2, 20)
    q_gain, k_gain = (Gain(numbers(20, seed=seed), 1e-6) if normed else None for seed in (5, 6))
    angles = numbers(50, half, seed=7)
    turn = Turn(q_gain, k_gain, RopeTable(angles.cos(), angles.sin()) if half else None)
    qkv = numbers(4, 7 * 20)
    expected = qkv.clone()
    positions = torch.tensor([0, 3, 49, 7])
    TORCH_KERNELS.turn_heads(spec, expected, turn, positions)
    gpu.turn_heads(spec, qkv, turn, positions)
    torch.testing.assert_close(qkv, expected)


# --- Logits ---


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_unembedding(softcap: float | None, gpu: Kernels) -> None:
    weight, x = numbers(5000, 16, seed=8), numbers(3, 16)
    weight[4000:4100] = weight[100:200]  # equal logits: the lower id comes first
    targets = torch.tensor([4050, -1, 7])
    found = gpu.unembed(weight, softcap)(x, 64, [1], targets)
    twin = TORCH_KERNELS.unembed(weight, softcap)(x, 64, [1], targets)
    assert torch.equal(found.ids, twin.ids)
    assert found.targets is not None
    assert twin.targets is not None
    assert found.targets.ranks[[0, 2]].tolist() == twin.targets.ranks[[0, 2]].tolist()
    for mine, theirs in zip(found[:4], twin[:4], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.targets.entropies, twin.targets.entropies)


# --- Attention ---

SPECS = {
    "mha": attention_spec(2, 2, 16),
    "odd": attention_spec(6, 2, 20),
    "window": attention_spec(4, 1, 16, window=90),
    "scale": AttentionSpec(4, 2, 16, scale=0.07),
    "whole": AttentionSpec(4, 2, 16, 0.25, causal=False),
    "whole-window": AttentionSpec(4, 2, 16, 0.25, window=20, causal=False),
}
# prompt, rows [start, end): prompts, chunks, rows behind the prompt
SHARES = [(70, 0, 70), (90, 90, 91), (1, 0, 1), (150, 100, 131), (50, 0, 60)]


def make_bench(spec: AttentionSpec, kernels: Kernels) -> Bench:
    cache = KVCache(model_config(spec), 100, 32, torch.float32, DEVICE)
    cache._pool.fill_(torch.nan)  # a slot read without having been written shows
    assert kernels.attend is not None
    return Bench(cache, KernelAttention((spec,), cache, kernels))


@pytest.mark.parametrize("name", SPECS)
def test_attention_equals_the_equation(name: str, gpu: Kernels) -> None:
    spec = SPECS[name]
    bench = make_bench(spec, gpu)
    cases = SHARES if spec.causal else [(n, 0, n) for n in (70, 1, 150)]
    shares = [
        (random_text(spec, max(prompt, end), torch.float32, prompt=prompt, seed=seed), start, end)
        for seed, (prompt, start, end) in enumerate(cases)
    ]
    for text, start, _ in shares:
        bench.place(text, computed=start)
    for (text, start, end), z in zip(shares, bench.step(shares), strict=True):
        exact = exact_attention(spec, text, start, end)
        torch.testing.assert_close(z.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 1100])
def test_spans_side_by_side_are_merged_to_the_same_bits(window: int | None, gpu: Kernels) -> None:
    """Single rows of long contexts, and the same rows as the end of a longer share."""
    spec = attention_spec(2, 1, 16, window=window)
    text = random_text(spec, 1500, torch.float32)
    bench = make_bench(spec, gpu)
    bench.place(text, computed=1498)
    [single] = bench.step([(text, 1498, 1499)])
    torch.testing.assert_close(
        single.double(), exact_attention(spec, text, 1498, 1499), atol=1e-5, rtol=1e-5
    )
    [both] = bench.step([(text, 1498, 1500)])
    if DEVICE.type == "cuda":  # interpreted, the fused operation is none
        assert torch.equal(single[0], both[0])
    torch.testing.assert_close(single[0], both[0])
