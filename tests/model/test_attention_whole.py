"""Attention that looks both ways, native and of torch: against the equation, and bit for bit."""

from __future__ import annotations

import random

import pytest
import torch

from attention_reference import Bench, attention_spec, exact_attention, model_config, random_text
from headstream.model.attention.base import AttentionSpec
from headstream.model.attention.kernel import KernelAttention
from headstream.model.attention.whole import WholeAttention
from headstream.model.kernels import Kernels
from headstream.model.kv_cache import KVCache
from triton_kernels import device_of

SPECS = {
    "minilm": attention_spec(12, 12, 32, causal=False),
    "grouped": attention_spec(4, 2, 20, causal=False),
    "window-1": attention_spec(4, 4, 16, window=1, causal=False),
    "window-65": attention_spec(4, 4, 64, window=65, causal=False),
    "window-300": attention_spec(2, 2, 16, window=300, causal=False),
    "window-all": attention_spec(2, 2, 16, window=10_000, causal=False),
}
LENGTHS = (1, 2, 16, 47, 48, 49, 127, 128, 129, 256, 700)


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> AttentionSpec:
    return SPECS[request.param]


def make_bench(spec: AttentionSpec, dtype: torch.dtype, kernels: Kernels, seed: int = 0) -> Bench:
    cache = KVCache(model_config(spec, n_layers=3), 256, 32, dtype, device_of(kernels))
    cache._pool.fill_(torch.nan)  # a slot read without having been written shows
    if kernels.attend is None:
        return Bench(cache, WholeAttention((spec,)), seed)
    return Bench(cache, KernelAttention((spec,), cache, kernels), seed)


def test_packed_texts_equal_the_equation(
    spec: AttentionSpec, dtype: torch.dtype, kernels: Kernels
) -> None:
    bench = make_bench(spec, dtype, kernels)
    texts = [random_text(spec, length, dtype, seed=length) for length in LENGTHS]
    for text in texts:
        bench.place(text)
    single, whole = (2e-5, 2e-6) if dtype == torch.float32 else (4e-2, 4e-3)
    for text, z in zip(texts, bench.step([(t, 0, len(t)) for t in texts]), strict=True):
        truth = exact_attention(spec, text)
        assert z.dtype == dtype
        torch.testing.assert_close(z.double(), truth, atol=single, rtol=single)
        assert (z.double() - truth).norm() <= whole * truth.norm()


def test_a_text_has_the_same_bits_in_any_crowd(
    spec: AttentionSpec, dtype: torch.dtype, kernels: Kernels
) -> None:
    texts = [random_text(spec, length, dtype, seed=length) for length in LENGTHS]
    alone = []
    for text in texts:
        bench = make_bench(spec, dtype, kernels, seed=len(text))
        bench.place(text)
        alone += bench.step([(text, 0, len(text))])
    for seed in range(3):
        bench = make_bench(spec, dtype, kernels, seed)
        order = random.Random(seed).sample(range(len(texts)), 7)
        for index in order:
            bench.place(texts[index])
        packed = bench.step([(texts[index], 0, len(texts[index])) for index in order])
        for index, z in zip(order, packed, strict=True):
            assert torch.equal(z, alone[index]), f"text {index}"


def test_the_native_kernel_does_not_depend_on_threads(
    spec: AttentionSpec, dtype: torch.dtype, native_kernels: Kernels
) -> None:
    texts = [random_text(spec, length, dtype, seed=length) for length in LENGTHS]
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        bench = make_bench(spec, dtype, native_kernels)
        for text in texts:
            bench.place(text)
        results.append(torch.cat(bench.step([(t, 0, len(t)) for t in texts])))
    assert all(torch.equal(result, results[0]) for result in results)


def test_layers_take_turns_in_one_pool() -> None:
    spec = SPECS["minilm"]
    cache = KVCache(model_config(spec, n_layers=6), 8, 32, torch.float32, torch.device("cpu"))
    assert cache.num_bytes == 2 * 8 * 32 * 12 * 32 * 4
    assert cache.layer(0)[0].data_ptr() == cache.layer(5)[0].data_ptr()
