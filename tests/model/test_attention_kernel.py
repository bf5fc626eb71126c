"""The native kernel of attention beside its twin in torch, and what it does not take."""

from __future__ import annotations

import pytest
import torch

from attention_bench import BLOCK_SIZE, SPECS, make_bench
from attention_reference import Bench, attention_spec, model_config, random_text
from headstream.model.attention.kernel import KernelAttention
from headstream.model.kernels import TORCH_KERNELS, Kernels
from headstream.model.kernels.attend import supports
from headstream.model.kv_cache import KVCache


@pytest.mark.parametrize("window", [None, 1, 100, 700])
@pytest.mark.parametrize("heads", [(1, 1), (4, 2), (9, 3), (5, 1), (14, 2), (8, 1), (48, 1)])
@pytest.mark.parametrize("d_head", [17, 64, 256])
def test_native_equals_its_twin(
    heads: tuple[int, int],
    d_head: int,
    window: int | None,
    dtype: torch.dtype,
    native_kernels: Kernels,
) -> None:
    spec = attention_spec(*heads, d_head, window)
    assert supports(spec, BLOCK_SIZE)
    shares = [
        (random_text(spec, n, dtype, prompt=max(1, n - 3), seed=n), max(0, n - 5), n)
        for n in (1, 2, 47, 48, 49, 127, 128, 129, 511, 512, 513, 700)
    ]
    both = []
    for kernels in (native_kernels, TORCH_KERNELS):
        bench = make_bench(spec, dtype, kernels)
        for text, start, _ in shares:
            bench.place(text, computed=start)
        both.append(torch.cat(bench.step(shares)))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(*both, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ["group-too-large", "head-too-wide"])
def test_shapes_the_kernel_does_not_know(name: str, native_kernels: Kernels) -> None:
    """They go to torch; the kernel itself refuses them rather than answer wrongly."""
    spec = SPECS[name]
    assert not supports(spec, BLOCK_SIZE)
    text = random_text(spec, 20, torch.float32, prompt=5)
    cache = KVCache(model_config(spec), 8, 32, torch.float32, torch.device("cpu"))
    assert native_kernels.attend is not None
    bench = Bench(cache, KernelAttention((spec,), cache, native_kernels))
    bench.place(text)
    with pytest.raises(AssertionError, match="refused"):
        bench.step([(text, 0, 20)])
