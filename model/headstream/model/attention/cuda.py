"""Attention on CUDA: one variable-length call over the paged pool.

NOT YET RUN: no GPU has executed this file. It follows torch 2.13's ``torch.nn.attention.varlen``
and the facts gathered in ARCHITECTURE.md, "CUDA".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen

from headstream.model.attention.base import Attend, AttentionSpec
from headstream.model.batch import PackedBatch
from headstream.model.kv_cache import KVCache

BLOCK_SIZE = 256
"""FlashAttention 2 pages are multiples of 256 tokens."""


class CudaAttention:
    """The backend: prompts, chunks and single rows are one call with bottom-right causal masks."""

    name = "varlen"

    def __init__(self, specs: tuple[AttentionSpec, ...], cache: KVCache) -> None:
        self._specs = specs
        self._cache = cache

    def bind(self, batch: PackedBatch) -> Attend:
        """Offsets that all layers of the step share."""
        # FlashAttention 2 reads cu_seqlens_k even with a block table.
        cu_seqlens_k = torch.zeros_like(batch.cu_seqlens_q)
        cu_seqlens_k[1:] = batch.context_lens.cumsum(0)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._cache.write(layer, k, v, batch.slot_mapping)
            spec = self._specs[layer]
            k_pool, v_pool = self._cache.layer(layer)
            z = torch.empty_like(q)
            reach = spec.window - 1 if spec.window else -1
            arguments: dict[str, Any] = {
                "window_size": (reach, 0 if spec.causal else reach),
                "scale": spec.scale,
                "enable_gqa": spec.n_heads != spec.n_kv_heads,
                "seqused_k": batch.context_lens,
                "block_table": batch.block_table,
                # The automatic split gave NaN in 2.13 nightlies, and one split keeps a row's sums
                # independent of the batch.
                "num_splits": 1,
            }
            varlen.varlen_attn_out(
                z,
                q,
                k_pool,
                v_pool,
                batch.cu_seqlens_q,
                cu_seqlens_k,
                batch.max_seqlen_q,
                batch.max_seqlen_k,
                **arguments,
            )
            return z

        return attend
