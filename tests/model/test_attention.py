"""Attention on CPU, native and of torch: against the equation, and bit for bit."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from attention_reference import (
    Bench,
    Text,
    attention_spec,
    exact_attention,
    model_config,
    random_text,
)
from headstream.model.attention.base import AttentionSpec
from headstream.model.attention.kernel import KernelAttention
from headstream.model.attention.masks import TileMasks
from headstream.model.attention.sdpa import SdpaAttention
from headstream.model.batch import PREFILL_GRID
from headstream.model.kernels import TORCH_KERNELS, Kernels
from headstream.model.kernels.attend import supports
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
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BLOCK_SIZE = 32


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return DTYPES[request.param]


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> AttentionSpec:
    return SPECS[request.param]


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


def assert_near(z: Tensor, exact: Tensor) -> None:
    """Within what the dtype can hold: one number, and all of them together."""
    assert z.shape == exact.shape
    single, whole = (2e-5, 2e-6) if z.dtype == torch.float32 else (4e-2, 4e-3)
    torch.testing.assert_close(z.double(), exact, atol=single, rtol=single)
    assert (z.double() - exact).norm() <= whole * exact.norm()


def run_in_steps(bench: Bench, text: Text, cuts: list[int]) -> Tensor:
    """All rows of a text, computed in steps that end at ``cuts``."""
    bench.place(text)
    return torch.cat([bench.step([(text, a, b)])[0] for a, b in pairwise([0, *cuts])])


# --- Against the equation ---


def test_what_is_no_number_is_not_left_out(dtype: torch.dtype, kernels: Kernels) -> None:
    """The keys of a whole chunk; and only rows that see them notice."""
    spec = attention_spec(4, 2, 32)
    text = random_text(spec, 300, dtype)
    text.k[40:168] = torch.nan
    bench = make_bench(spec, dtype, kernels)
    bench.place(text)
    [z] = bench.step([(text, 0, 300)])
    assert z[:40].isfinite().all()
    assert z[40:].isnan().all()


def test_packed_batch_equals_the_equation(
    spec: AttentionSpec, dtype: torch.dtype, kernels: Kernels
) -> None:
    bench = make_bench(spec, dtype, kernels)
    shares = []
    for seed, (prompt, length, start, end) in enumerate(
        [
            (2 * G + 40, 2 * G + 40, 0, 2 * G + 40),  # whole prompt, three tiles
            (90, 91, 90, 91),  # a single row behind a prompt
            (1, 1, 0, 1),  # a prompt of one token
            (3 * G, 3 * G, G, 2 * G),  # a middle chunk
            (2 * G + 3, 2 * G + 3, 2 * G, 2 * G + 3),  # the last chunk
            (G, G + 300, G + 299, G + 300),  # a row far behind
            (50, 60, 0, 60),  # prompt and rows behind it, computed again
            (G + 5, G + 9, G, G + 9),  # the same, from a grid position on
            (G, G, 0, G),  # one full tile
            (2, 700, 680, 700),  # several rows behind the prompt, context before
        ]
    ):
        text = random_text(spec, length, dtype, prompt=prompt, seed=seed)
        bench.place(text, computed=start)
        shares.append((text, start, end))
    for (text, start, end), z in zip(shares, bench.step(shares), strict=True):
        assert z.dtype == dtype
        assert_near(z, exact_attention(spec, text, start, end))


@pytest.mark.parametrize("seed", range(4))
def test_random_schedules_equal_the_equation(seed: int, kernels: Kernels) -> None:
    """Texts join, are cut on the grid and leave in any order, until all have run."""
    draw = random.Random(seed)
    spec = attention_spec(4, 2, 16, window=draw.choice([None, 30, 270]))
    bench = make_bench(spec, torch.float32, kernels, block_size=draw.choice([1, 16, 48, 256]))
    texts = []
    for number in range(6):
        length = draw.randint(1, 600)
        texts.append(
            random_text(spec, length, torch.float32, prompt=draw.randint(1, length), seed=number)
        )
        bench.place(texts[-1])
    done = dict.fromkeys(texts, 0)
    parts: dict[Text, list[Tensor]] = {text: [] for text in texts}
    while open_texts := [text for text in texts if done[text] < len(text)]:
        shares = []
        for text in draw.sample(open_texts, draw.randint(1, len(open_texts))):
            start = done[text]
            grid_cuts = range(start - start % G + G, text.prompt, G)
            behind = list(range(max(start + 1, text.prompt), len(text) + 1, 40))
            end = draw.choice([*grid_cuts, *behind, len(text)])
            shares.append((text, start, end))
        for (text, _, end), z in zip(shares, bench.step(shares), strict=True):
            parts[text].append(z)
            done[text] = end
    for text in texts:
        assert_near(torch.cat(parts[text]), exact_attention(spec, text))


def test_every_layer_has_its_own_window_and_cache(kernels: Kernels) -> None:
    specs = (SPECS["window-1"], attention_spec(4, 2, 16))
    cache = KVCache(model_config(specs[0], n_layers=2), 16, 32, torch.float32, device_of(kernels))
    backend = (
        SdpaAttention(specs, cache)
        if kernels.attend is None
        else KernelAttention(specs, cache, kernels)
    )
    bench = Bench(cache, backend)
    texts = [random_text(specs[0], 40, torch.float32, seed=seed, prompt=30) for seed in (1, 2)]
    bench.place(texts[0])
    there = bench.device
    attend = bench._backend.bind(bench._pack([(texts[0], 0, 40)]).to(there))
    rows = [[part.to(there) for part in (text.q, text.k, text.v)] for text in texts]
    for layer, (q, k, v) in enumerate(rows):
        attend(layer, q, k, v)
    for layer, (q, k, v) in enumerate(rows):
        z = attend(layer, q, k, v).cpu()
        assert_near(z, exact_attention(specs[layer], texts[layer]))


def test_inputs_need_not_be_contiguous(kernels: Kernels) -> None:
    """Families hand over slices of one matrix of queries, keys and values."""
    spec = SPECS["gqa"]
    text = random_text(spec, 30, torch.float32, prompt=20)
    bench = make_bench(spec, torch.float32, kernels)
    bench.place(text)
    qkv = torch.cat([text.q, text.k, text.v], dim=1).to(bench.device)  # [n, H + 2 G, D]
    q, k, v = qkv.split([spec.n_heads, spec.n_kv_heads, spec.n_kv_heads], dim=1)
    z = bench._backend.bind(bench._pack([(text, 0, 30)]).to(bench.device))(0, q, k, v).cpu()
    assert z.is_contiguous()
    assert_near(z, exact_attention(spec, text))


@pytest.mark.parametrize("factor", [0.0, 1e4])
def test_flat_and_peaked_weights(factor: float, kernels: Kernels) -> None:
    """All keys weigh the same, or one takes everything."""
    spec = SPECS["mha"]
    made = random_text(spec, G + 90, torch.float32, prompt=G + 40)
    text = Text(made.q * factor, made.k, made.v, made.prompt)
    bench = make_bench(spec, torch.float32, kernels)
    bench.place(text)
    [z] = bench.step([(text, 0, len(text))])
    q, k = text.q.double(), text.k.double()
    scores = torch.einsum("ihd,jhd->hij", q, k) * spec.scale
    causal = torch.ones(len(text), len(text), dtype=torch.bool).tril()
    weights = scores.masked_fill(~causal, -torch.inf).softmax(-1)  # exp alone would overflow
    exact = torch.einsum("hij,jhd->ihd", weights, text.v.double())
    torch.testing.assert_close(z.double(), exact, atol=2e-2 if factor else 1e-5, rtol=0)


# --- Bit for bit ---


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


# --- What only the native kernel promises ---


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


# --- Masks ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 1, 7, G - 1, G, G + 1, 600])
def test_masks_equal_brute_force(window: int | None, dtype: torch.dtype) -> None:
    masks = TileMasks()  # the same for all shapes: its strip grows on the way, and is cut again
    shapes = [(1, 1), (1, 9), (3, 3), (G, G), (G, 3 * G), (G, 2 * G), (17, 17), (5, 900), (G, 2000)]
    for rows, keys in [*shapes, *reversed(shapes)]:
        row = torch.arange(keys - rows, keys)[:, None]  # rows are the last of the keys
        key = torch.arange(keys)[None, :]
        visible = key <= row
        if window is not None:
            visible &= key > row - window
        mask = masks.get(window, rows, keys, dtype)
        if mask is None:
            assert torch.equal(visible, torch.ones(rows, keys, dtype=torch.bool).tril())
            continue
        assert mask.dtype == dtype
        assert torch.equal(
            mask, torch.zeros(rows, keys, dtype=dtype).masked_fill(~visible, -torch.inf)
        )


def test_the_first_tile_needs_no_mask() -> None:
    masks = TileMasks()
    assert masks.get(None, 20, 20, torch.float32) is None
    assert masks.get(20, 20, 20, torch.float32) is None
    assert masks.get(19, 20, 20, torch.float32) is not None
