"""Attention in float64 from its equation, and packed steps over a scattered block pool."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headstream.model.attention.base import AttentionBackend, AttentionSpec
from headstream.model.batch import PackedBatch
from headstream.model.config import ModelConfig
from headstream.model.kv_cache import KVCache


def attention_spec(
    n_heads: int, n_kv_heads: int, d_head: int, window: int | None = None, *, causal: bool = True
) -> AttentionSpec:
    """A spec with the textbook's scale."""
    return AttentionSpec(n_heads, n_kv_heads, d_head, 1 / math.sqrt(d_head), window, causal)


def model_config(spec: AttentionSpec, n_layers: int = 1) -> ModelConfig:
    """As much of a model as a KV cache asks for; all layers alike."""
    return ModelConfig(
        family="llama",
        architecture="none",
        d_model=spec.n_heads * spec.d_head,
        n_layers=n_layers,
        n_heads=spec.n_heads,
        n_kv_heads=spec.n_kv_heads,
        d_head=spec.d_head,
        d_mlp=1,
        d_vocab=1,
        max_model_len=1 << 20,
        norm_eps=1e-6,
        activation="silu",
        tied=True,
        attention=(spec,) * n_layers,
    )


@dataclass(frozen=True, eq=False)
class Text:
    """Queries, keys and values of all positions of one request."""

    q: Tensor  # [n, H, D]
    k: Tensor  # [n, G, D]
    v: Tensor  # [n, G, D]
    prompt: int  # positions below lie in the prompt

    def __len__(self) -> int:
        return len(self.q)


def random_text(
    spec: AttentionSpec,
    length: int,
    dtype: torch.dtype,
    *,
    prompt: int | None = None,
    seed: int = 0,
) -> Text:
    """Normal random numbers; queries so large that some keys weigh far more than others."""
    generator = torch.Generator().manual_seed(1000 * seed + length)

    def rows(heads: int) -> Tensor:
        return torch.randn(length, heads, spec.d_head, generator=generator).to(dtype)

    q, k, v = rows(spec.n_heads) * 2, rows(spec.n_kv_heads), rows(spec.n_kv_heads)
    return Text(q, k, v, length if prompt is None else prompt)


def exact_attention(
    spec: AttentionSpec, text: Text, start: int = 0, end: int | None = None
) -> Tensor:
    """softmax(scale Q K^T + mask) V of the positions [start, end): float64 [rows, H, D]."""
    group = spec.n_heads // spec.n_kv_heads
    query = torch.arange(len(text))[start:end]
    key = torch.arange(len(text))
    back = query[:, None] - key[None, :]  # [rows, n] how far a key lies behind the query
    visible = back >= 0 if spec.causal else torch.ones_like(back, dtype=torch.bool)
    if spec.window is not None:
        visible &= back.abs() < spec.window
    z = torch.empty(len(query), spec.n_heads, spec.d_head, dtype=torch.float64)
    for h in range(spec.n_heads):
        q, k, v = text.q[query, h], text.k[:, h // group], text.v[:, h // group]
        scores = q.double() @ k.double().T * spec.scale  # [rows, n]
        weights = scores.masked_fill(~visible, -math.inf).exp()
        z[:, h] = weights / weights.sum(1, keepdim=True) @ v.double()
    return z


class Bench:
    """One layer's backend and a pool whose blocks are handed out in random order."""

    def __init__(self, cache: KVCache, backend: AttentionBackend, seed: int = 0) -> None:
        self.cache = cache
        self._backend = backend
        self._free = list(range(cache.num_blocks))
        random.Random(seed).shuffle(self._free)
        self._blocks: dict[Text, list[int]] = {}
        self.device = cache.layer(0)[0].device

    def place(self, text: Text, computed: int = 0) -> None:
        """Give ``text`` its blocks and compute its first positions."""
        size = self.cache.block_size
        self._blocks[text] = [self._free.pop() for _ in range(-(-len(text) // size))]
        if computed:
            self.step([(text, 0, computed)])

    def step(self, shares: Sequence[tuple[Text, int, int]]) -> list[Tensor]:
        """Attend over the positions [start, end) of each text, packed: z of each, on CPU."""
        batch = self._pack(shares)
        q, k, v = (
            torch.cat([getattr(text, name)[start:end] for text, start, end in shares])
            for name in ("q", "k", "v")
        )
        attend = self._backend.bind(batch.to(self.device))
        z = attend(0, q.to(self.device), k.to(self.device), v.to(self.device)).cpu()
        return list(z.split([end - start for _, start, end in shares]))

    def _slots(self, text: Text, start: int, end: int) -> Tensor:
        position = torch.arange(start, end)
        blocks = torch.tensor(self._blocks[text])
        size = self.cache.block_size
        return blocks[position // size] * size + position % size

    def _pack(self, shares: Sequence[tuple[Text, int, int]]) -> PackedBatch:
        tables = [self._blocks[text] for text, _, _ in shares]
        width = max(map(len, tables))
        lengths = [end - start for _, start, end in shares]
        bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        prompt_rows = [max(0, min(end, text.prompt) - start) for text, start, end in shares]
        return PackedBatch(
            input_ids=torch.zeros(bounds[-1], dtype=torch.int64),
            positions=torch.cat([torch.arange(start, end) for _, start, end in shares]),
            cu_seqlens_q=torch.tensor(bounds, dtype=torch.int32),
            context_lens=torch.tensor([end for _, _, end in shares], dtype=torch.int32),
            prompt_rows=torch.tensor(prompt_rows, dtype=torch.int32),
            block_table=torch.tensor(
                [table + [0] * (width - len(table)) for table in tables], dtype=torch.int32
            ),
            slot_mapping=torch.cat([self._slots(*share) for share in shares]),
            max_seqlen_q=max(lengths),
            max_seqlen_k=max(end for _, _, end in shares),
            logits_indices=torch.empty(0, dtype=torch.int64),
        )
