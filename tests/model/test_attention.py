"""Attention on CPU, native and of torch, against the equation."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from attention_bench import SPECS, make_bench
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
from headstream.model.attention.sdpa import SdpaAttention
from headstream.model.batch import PREFILL_GRID
from headstream.model.kernels import Kernels
from headstream.model.kv_cache import KVCache
from triton_kernels import device_of

G = PREFILL_GRID


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> AttentionSpec:
    return SPECS[request.param]


def assert_near(z: Tensor, exact: Tensor) -> None:
    """Within what the dtype can hold: one number, and all of them together."""
    assert z.shape == exact.shape
    single, whole = (2e-5, 2e-6) if z.dtype == torch.float32 else (4e-2, 4e-3)
    torch.testing.assert_close(z.double(), exact, atol=single, rtol=single)
    assert (z.double() - exact).norm() <= whole * exact.norm()


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


@pytest.mark.parametrize("name", ["gqa", "mha"])
def test_inputs_need_not_be_contiguous(name: str, kernels: Kernels) -> None:
    """Families hand over slices of one matrix of queries, keys and values."""
    spec = SPECS[name]
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
