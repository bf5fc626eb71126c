"""Causal attention of many shapes, computed as the runner would."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from attention_reference import Bench, Text, attention_spec, model_config
from headstream.model.attention.base import AttentionSpec
from headstream.model.attention.kernel import KernelAttention
from headstream.model.attention.sdpa import SdpaAttention
from headstream.model.batch import PREFILL_GRID
from headstream.model.kernels import Kernels
from headstream.model.kv_cache import KVCache
from triton_kernels import device_of

G = PREFILL_GRID
SPECS = {
    "mha": attention_spec(4, 4, 64),
    "gqa": attention_spec(8, 2, 32),
    "one-kv-head": attention_spec(4, 1, 256),
    "no-power-of-two": attention_spec(6, 2, 20),
    "window-1": attention_spec(4, 2, 16, window=1),
    "window-7": attention_spec(4, 2, 24, window=7),
    "window-grid": attention_spec(4, 2, 16, window=G),
    "window-300": attention_spec(4, 2, 16, window=300),
    "window-512": attention_spec(4, 1, 64, window=512),
    "window-all": attention_spec(4, 2, 16, window=10_000),
    "scale": AttentionSpec(4, 2, 16, scale=0.07),
    "group-of-many": attention_spec(24, 2, 16),
    "wide-head": attention_spec(2, 1, 288, window=100),
    "group-too-large": attention_spec(49, 1, 16),
    "head-too-wide": attention_spec(2, 1, 520, window=100),
}
BLOCK_SIZE = 32


def make_bench(
    spec: AttentionSpec,
    dtype: torch.dtype,
    kernels: Kernels,
    *,
    seed: int = 0,
    block_size: int = BLOCK_SIZE,
) -> Bench:
    """The native backend where it takes the shape, as the runner chooses."""
    num_blocks = 4096 // block_size
    takes = kernels.attends(spec, block_size)
    device = device_of(kernels) if takes else torch.device("cpu")
    cache = KVCache(model_config(spec), num_blocks, block_size, dtype, device)
    cache._pool.fill_(torch.nan)  # a slot read without having been written shows
    if takes:
        return Bench(cache, KernelAttention((spec,), cache, kernels), seed)
    return Bench(cache, SdpaAttention((spec,), cache), seed)


def run_in_steps(bench: Bench, text: Text, cuts: list[int]) -> Tensor:
    """All rows of a text, computed in steps that end at ``cuts``."""
    bench.place(text)
    return torch.cat([bench.step([(text, a, b)])[0] for a, b in pairwise([0, *cuts])])
