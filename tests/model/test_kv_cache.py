"""The block pool's memory: who finds what where, and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attention_reference import attention_spec, model_config
from headstream.model.kv_cache import KVCache, block_bytes

TESTS = str(Path(__file__).parents[1])
CPU = torch.device("cpu")
SPEC = attention_spec(4, 2, 8)


def make_cache(n_layers: int = 3, num_blocks: int = 5, block_size: int = 4) -> KVCache:
    config = model_config(SPEC, n_layers)
    cache = KVCache(config, num_blocks, block_size, torch.float32, CPU)
    for layer in range(n_layers):
        for pool in cache.layer(layer):
            pool.zero_()
    return cache


def test_a_slot_is_a_block_and_an_offset() -> None:
    cache = make_cache()
    k, v = torch.randn(2, 3, 2, 8)  # [N, G, D] each
    slots = torch.tensor([4 * 4 + 3, 0, 2 * 4 + 1])  # (block, offset): (4, 3), (0, 0), (2, 1)
    cache.write(1, k, v, slots)
    for pool, rows in zip(cache.layer(1), (k, v), strict=True):
        assert pool.shape == (5, 4, 2, 8)
        assert torch.equal(pool[[4, 0, 2], [3, 0, 1]], rows)
        assert pool.count_nonzero() == rows.numel()  # nothing else was written


def test_blocks_are_copied_over_all_layers_and_all_are_read_first() -> None:
    cache = make_cache()
    for layer in range(3):
        k, v = torch.randn(2, 20, 2, 8)  # [slots, G, D] each
        cache.write(layer, k, v, torch.arange(20))
    before = [pool.clone() for layer in range(3) for pool in cache.layer(layer)]
    cache.copy_blocks(torch.tensor([1, 4]), torch.tensor([4, 0]))
    after = [pool for layer in range(3) for pool in cache.layer(layer)]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new, old[[4, 1, 2, 3, 1]])


def test_layers_do_not_share_memory() -> None:
    cache = make_cache()
    for layer in range(3):
        filling = torch.full((1, 2, 8), layer + 1.0)
        cache.write(layer, filling, -filling, torch.tensor([7]))
    for layer in range(3):
        k_pool, v_pool = cache.layer(layer)
        assert k_pool.flatten(0, 1)[7].unique().tolist() == [layer + 1]
        assert v_pool.flatten(0, 1)[7].unique().tolist() == [-layer - 1]


def test_a_slot_is_overwritten_by_its_next_owner() -> None:
    cache = make_cache()
    slots = torch.tensor([6, 2])
    for filling in (1.0, 2.0):
        rows = torch.full((2, 2, 8), filling)
        cache.write(0, rows, rows, slots)
    assert cache.layer(0)[0].flatten(0, 1)[slots].unique().tolist() == [2.0]


def test_rows_may_be_slices_of_one_matrix() -> None:
    cache = make_cache()
    qkv = torch.randn(3, 8, 8)
    k, v = qkv[:, 4:6], qkv[:, 6:]
    cache.write(2, k, v, torch.tensor([1, 5, 9]))
    assert torch.equal(cache.layer(2)[1].flatten(0, 1)[[1, 5, 9]], v)


def test_a_slot_outside_the_pool_is_refused() -> None:
    cache = make_cache()
    rows = torch.zeros(1, 2, 8)
    for slot in (20, -1):
        with pytest.raises(IndexError):
            cache.write(0, rows, rows, torch.tensor([slot]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes(dtype: torch.dtype) -> None:
    config = model_config(SPEC, n_layers=3)
    cache = KVCache(config, 5, 4, dtype, CPU)
    k_pool, v_pool = cache.layer(0)
    element = k_pool.element_size()
    assert (k_pool.shape, v_pool.shape) == ((5, 4, 2, 8), (5, 4, 2, 8))
    assert block_bytes(config, 4, dtype) == 2 * 3 * 4 * 2 * 16 * element  # D in whole vectors of 16
    assert cache.num_bytes == 5 * block_bytes(config, 4, dtype)


def run_apart(program: str) -> list[int]:
    """The numbers that a program prints, of a process whose memory nothing else has used."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])]),
        },
    )
    return [int(number) for number in result.stdout.split()]


UNTOUCHED = """
import psutil, torch
from attention_reference import attention_spec, model_config
from headstream.model.allocator import tune_allocator
from headstream.model.kv_cache import KVCache

if {tuned}:
    tune_allocator()
spec = attention_spec(4, 4, 64)
rows = torch.ones(40, 4, 64)
process = psutil.Process()
before = process.memory_info().rss
config = model_config(spec, n_layers=4)
cache = KVCache(config, {num_blocks}, 32, torch.float32, torch.device("cpu"))
for layer in range(4):
    cache.write(layer, rows, rows, torch.arange(40))
print(cache.num_bytes, process.memory_info().rss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts pages as Linux does")
@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("num_blocks", [2000, 9000])  # below and above the allocator's threshold
def test_untouched_blocks_cost_no_memory(num_blocks: int, tuned: bool) -> None:
    pool, resident = run_apart(UNTOUCHED.format(num_blocks=num_blocks, tuned=tuned))
    assert pool >= 500 << 20
    assert resident < pool / 10


WRITTEN = """
import psutil, torch
from attention_reference import attention_spec, model_config
from headstream.model.allocator import tune_allocator
from headstream.model.kv_cache import KVCache, block_bytes

tune_allocator()
config = model_config(attention_spec(4, 2, 64), n_layers=8)
num_blocks, tokens, dtype = {num_blocks}, {tokens}, torch.{dtype}
rows = torch.ones(1024, 2, 64, dtype=dtype)  # [N, G, D]
small = KVCache(config, 32, 32, dtype, torch.device("cpu"))
process = psutil.Process()
for cache in (small, KVCache(config, num_blocks, 32, dtype, torch.device("cpu"))):
    before = process.memory_info().rss  # of the second: all that a first write loads is there
    for first in range(0, min(tokens, cache.num_blocks * 32), 1024):
        for layer in range(8):
            cache.write(layer, rows, rows, torch.arange(first, first + 1024))
print(block_bytes(config, 32, dtype) // 32, process.memory_info().rss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts pages as Linux does")
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("share", [1.0, 0.5])  # of the blocks: the others must cost nothing
def test_a_token_costs_the_memory_of_its_keys_and_values(
    dtype: str, size: int, share: float
) -> None:
    """256 MiB of blocks, written: what the process grew by is 2 L G D elements a token, +-5 %."""
    per_token = 2 * 8 * 2 * 64 * size
    num_blocks = (256 << 20) // (32 * per_token)
    tokens = int(num_blocks * 32 * share)
    said, grown = run_apart(WRITTEN.format(num_blocks=num_blocks, tokens=tokens, dtype=dtype))
    assert said == per_token
    assert grown / tokens == pytest.approx(per_token, rel=0.05)
