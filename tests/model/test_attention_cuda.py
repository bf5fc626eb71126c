"""CudaAttention against the equation, where there is a GPU; its call, everywhere."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from attention_reference import (
    Bench,
    Text,
    attention_spec,
    exact_attention,
    model_config,
    random_text,
)
from headstream.model.attention.base import AttentionSpec
from headstream.model.attention.cuda import BLOCK_SIZE, CudaAttention
from headstream.model.kv_cache import KVCache

SPECS = {
    "mha": attention_spec(4, 4, 64),
    "gqa": attention_spec(8, 2, 128),
    "one-kv-head": attention_spec(4, 1, 256),
    "window-1": attention_spec(4, 2, 64, window=1),
    "window-100": attention_spec(4, 2, 64, window=100),
    "window-512": attention_spec(4, 1, 256, window=512),
    "window-all": attention_spec(4, 2, 64, window=10_000),
    "scale": AttentionSpec(4, 2, 64, scale=0.07),
}
# prompt, rows [start, end): whole prompts, chunks with context before, rows behind the prompt
SHARES = [
    (600, 0, 600),
    (90, 90, 91),
    (1, 0, 1),
    (768, 256, 512),
    (515, 512, 515),
    (256, 555, 556),
    (50, 0, 60),
    (2, 680, 700),
]


def make_bench(spec: AttentionSpec, device: str, seed: int = 0, num_blocks: int = 40) -> Bench:
    cache = KVCache(
        model_config(spec), num_blocks, BLOCK_SIZE, torch.bfloat16, torch.device(device)
    )
    if device == "cuda":
        for pool in cache.layer(0):
            pool.fill_(torch.nan)  # a slot read without having been written shows
    return Bench(cache, CudaAttention((spec,), cache), seed)


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> AttentionSpec:
    return SPECS[request.param]


def make_shares(spec: AttentionSpec) -> list[tuple[Text, int, int]]:
    return [
        (random_text(spec, max(prompt, end), torch.bfloat16, prompt=prompt, seed=seed), start, end)
        for seed, (prompt, start, end) in enumerate(SHARES)
    ]


def assert_near(z: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(z.double(), exact, atol=4e-2, rtol=4e-2)
    assert (z.double() - exact).norm() <= 5e-3 * exact.norm()


# --- Without a GPU: what is handed over ---


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every call, bound to the signature that torch gives the function."""
    seen: list[dict[str, Any]] = []
    signature = inspect.signature(varlen.varlen_attn_out)

    def record(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        seen.append(bound.arguments)
        bound.arguments["out"].zero_()

    monkeypatch.setattr(varlen, "varlen_attn_out", record)
    return seen


def test_arguments_fit_the_signature(spec: AttentionSpec, calls: list[dict[str, Any]]) -> None:
    bench = make_bench(spec, "cpu")
    shares = make_shares(spec)
    for text, start, _ in shares:
        bench.place(text, computed=start)
    calls.clear()  # those that computed what came before
    bench.step(shares)
    [call] = calls
    n, s = sum(end - start for _, start, end in shares), len(shares)
    assert call["query"].shape == (n, spec.n_heads, spec.d_head)
    assert call["out"].shape == call["query"].shape
    for pool in (call["key"], call["value"]):
        assert pool.shape == (40, BLOCK_SIZE, spec.n_kv_heads, spec.d_head)
        assert pool.is_contiguous()
    for name in ("cu_seq_q", "cu_seq_k", "seqused_k", "block_table"):
        assert call[name].dtype == torch.int32, name
        assert call[name].is_contiguous(), name
    assert call["seqused_k"].tolist() == [end for _, _, end in shares]
    assert call["cu_seq_q"].tolist()[0] == call["cu_seq_k"].tolist()[0] == 0
    assert call["cu_seq_q"].diff().tolist() == [end - start for _, start, end in shares]
    assert call["cu_seq_k"].diff().tolist() == [end for _, _, end in shares]
    assert call["block_table"].shape[0] == s
    assert call["block_table"].shape[1] * BLOCK_SIZE >= call["max_k"]
    assert call["max_q"] == 600
    assert call["max_k"] == 700
    assert call["scale"] == spec.scale
    assert call["num_splits"] == 1
    assert call["enable_gqa"] == (spec.n_heads != spec.n_kv_heads)
    assert call["window_size"] == ((-1, 0) if spec.window is None else (spec.window - 1, 0))


def test_keys_and_values_are_in_the_pool_before_the_call(calls: list[dict[str, Any]]) -> None:
    spec = SPECS["gqa"]
    bench = make_bench(spec, "cpu")
    text = random_text(spec, 300, torch.bfloat16)
    bench.place(text)
    bench.step([(text, 0, 300)])
    blocks = calls[0]["block_table"][0].long()
    assert torch.equal(calls[0]["key"][blocks].flatten(0, 1)[:300], text.k)
    assert torch.equal(calls[0]["value"][blocks].flatten(0, 1)[:300], text.v)


# --- On a GPU ---


@pytest.mark.gpu
def test_packed_batch_equals_the_equation(spec: AttentionSpec) -> None:
    """Chunks included: the causal mask is aligned at the last row and the last key."""
    bench = make_bench(spec, "cuda")
    shares = make_shares(spec)
    for text, start, _ in shares:
        bench.place(text, computed=start)
    for (text, start, end), z in zip(shares, bench.step(shares), strict=True):
        assert_near(z, exact_attention(spec, text, start, end))


@pytest.mark.gpu
def test_every_row_of_a_chunk_sees_its_own_keys(spec: AttentionSpec) -> None:
    """Values that count the keys: a mask aligned at the top left would give other means."""
    text = random_text(spec, 520, torch.bfloat16)
    counted = Text(
        torch.zeros_like(text.q),
        text.k,
        (torch.arange(520) % 64).bfloat16()[:, None, None].expand_as(text.v).contiguous(),
        520,
    )
    bench = make_bench(spec, "cuda")
    bench.place(counted, computed=512)
    [z] = bench.step([(counted, 512, 520)])
    exact = exact_attention(spec, counted, 512)
    torch.testing.assert_close(z.double(), exact, atol=0, rtol=2**-7)


@pytest.mark.gpu
def test_alone_packed_and_in_any_order(spec: AttentionSpec) -> None:
    shares = make_shares(spec)
    alone: list[Tensor] = []
    for text, start, end in shares:
        bench = make_bench(spec, "cuda")
        bench.place(text, computed=start)
        alone += bench.step([(text, start, end)])
    for order in (range(len(shares)), reversed(range(len(shares)))):
        packed = [shares[i] for i in order]
        bench = make_bench(spec, "cuda", seed=1)
        for text, start, _ in packed:
            bench.place(text, computed=start)
        for share, z in zip(packed, bench.step(packed), strict=True):
            assert torch.equal(z, alone[shares.index(share)])
