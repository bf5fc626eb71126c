"""Attention on CPU, native and of torch: the same rows are the same bits."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from attention_bench import BLOCK_SIZE, SPECS, make_bench, run_in_steps
from attention_reference import attention_spec, random_text
from headstream.model.attention.base import AttentionSpec
from headstream.model.batch import PREFILL_GRID
from headstream.model.kernels import TORCH_KERNELS, Kernels
from headstream.model.kernels.attend import supports

G = PREFILL_GRID


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> AttentionSpec:
    return SPECS[request.param]


def test_alone_packed_and_in_any_order(
    spec: AttentionSpec, dtype: torch.dtype, kernels: Kernels
) -> None:
    shares = []
    for seed, (prompt, start, end) in enumerate(
        [(G + 77, 0, G + 77), (33, 33, 34), (5, 0, 9), (2 * G, G, 2 * G), (4, 530, 531), (1, 0, 1)]
    ):
        shares.append((random_text(spec, end, dtype, prompt=prompt, seed=seed), start, end))
    alone: list[Tensor] = []
    for share in shares:
        bench = make_bench(spec, dtype, kernels)
        bench.place(share[0], computed=share[1])
        alone += bench.step([share])
    for seed in range(3):
        order = list(range(len(shares)))
        random.Random(seed).shuffle(order)
        bench = make_bench(spec, dtype, kernels, seed=seed + 1)
        for i in order:
            bench.place(shares[i][0], computed=shares[i][1])
        for i, z in zip(order, bench.step([shares[i] for i in order]), strict=True):
            assert torch.equal(z, alone[i])


def test_prompt_whole_and_cut_on_the_grid(spec: AttentionSpec, dtype: torch.dtype) -> None:
    n = 3 * G + 21
    text = random_text(spec, n, dtype)
    whole = run_in_steps(make_bench(spec, dtype, TORCH_KERNELS), text, [n])
    for cuts in ([G, 2 * G, 3 * G, n], [2 * G, n], [G, 3 * G, n]):
        bench = make_bench(spec, dtype, TORCH_KERNELS, seed=len(cuts))
        assert torch.equal(run_in_steps(bench, text, cuts), whole)


def test_rows_one_by_one_and_recomputed_behind_the_prompt(
    spec: AttentionSpec, dtype: torch.dtype, kernels: Kernels
) -> None:
    """A preempted sequence is computed again: prompt and generated rows in few steps."""
    prompt, n = G + 30, G + 300
    text = random_text(spec, n, dtype, prompt=prompt)
    one_by_one = run_in_steps(
        make_bench(spec, dtype, kernels), text, [G, prompt, *range(prompt + 1, n + 1)]
    )
    for cuts in ([n], [G, n], [G, prompt + 9, prompt + 10, n]):
        bench = make_bench(spec, dtype, kernels, seed=len(cuts))
        assert torch.equal(run_in_steps(bench, text, cuts), one_by_one)


def test_no_cut_changes_a_bit(
    spec: AttentionSpec, dtype: torch.dtype, native_kernels: Kernels
) -> None:
    """Whole, cut anywhere, one by one, prompt or not: a row is the same bits."""
    n = 2 * G + 21
    whole = run_in_steps(make_bench(spec, dtype, native_kernels), random_text(spec, n, dtype), [n])
    if not supports(spec, BLOCK_SIZE):
        pytest.skip("torch computes this shape")
    for cuts in ([7, 130, 131, n], [1, 2, 3, 300, n], [G - 1, n], [128, 256, 384, n]):
        text = random_text(spec, n, dtype, prompt=cuts[0])
        bench = make_bench(spec, dtype, native_kernels, seed=len(cuts))
        assert torch.equal(run_in_steps(bench, text, cuts), whole)


def test_number_of_threads_changes_no_bit(
    spec: AttentionSpec, dtype: torch.dtype, native_kernels: Kernels
) -> None:
    if not supports(spec, BLOCK_SIZE):
        pytest.skip("torch computes this shape")
    text = random_text(spec, 1100, dtype, prompt=1)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        bench = make_bench(spec, dtype, native_kernels)
        bench.place(text, computed=1050)
        results += bench.step([(text, 1050, 1100)])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_what_a_block_held_before_does_not_matter(
    dtype: torch.dtype, native_kernels: Kernels
) -> None:
    """A sequence of NaN leaves; who gets its blocks does not notice, at any odd or even length."""
    spec = attention_spec(4, 2, 64)
    for length in (1, 2, 31, 32, 33, 101):
        text = random_text(spec, length, dtype, prompt=1)
        steps = list(range(1, length + 1))
        clean = make_bench(spec, dtype, native_kernels)
        clean.cache._pool.zero_()
        used = make_bench(spec, dtype, native_kernels)  # full of NaN
        assert torch.equal(run_in_steps(used, text, steps), run_in_steps(clean, text, steps))
