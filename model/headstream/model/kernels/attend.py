"""Attention of any rows over the block pool: the native kernel. Its twin is ``attention.sdpa``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from headstream.model.attention.base import AttentionSpec
from headstream.model.batch import PackedBatch
from headstream.model.kernels import build
from headstream.model.kernels.library import check, functions
from headstream.model.kv_cache import Pools

AttendKernel = Callable[[AttentionSpec, Tensor, Tensor, Tensor, Pools, PackedBatch], Tensor]
"""(spec, q [N, H, D], k, v [N, G, D], K and V pool, batch) -> z [N, H, D].

Writes k and v into the pools, in a layout of its own (kv_layout.h), and attends with q."""

_MAX_D_HEAD = 512
_MAX_GROUP = 48
_LANES = 16


def load_native(cache_dir: Path) -> AttendKernel:
    """The compiled kernel.

    Raises:
        KernelUnavailableError: it cannot be built here.
    """
    compiled = functions(
        build.load("attend", cache_dir), "attend", "pppppp" + "pppp" + "iiiii" + "iiiiii" + "f"
    )

    def attend(  # noqa: PLR0917 - an AttendKernel
        spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, pools: Pools, batch: PackedBatch
    ) -> Tensor:
        # Heads of one row lie side by side, rows anywhere: q, k and v are views of one projection.
        z = torch.empty(q.shape, dtype=q.dtype)
        status = compiled[q.dtype](
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            pools[0].data_ptr(),
            pools[1].data_ptr(),
            z.data_ptr(),
            batch.slot_mapping.data_ptr(),
            batch.cu_seqlens_q.data_ptr(),
            batch.context_lens.data_ptr(),
            batch.block_table.data_ptr(),
            q.shape[0],
            batch.context_lens.shape[0],
            batch.block_table.stride(0),
            q.stride(0),
            k.stride(0),
            spec.n_heads,
            spec.n_kv_heads,
            spec.d_head,
            pools[0].shape[1],
            spec.window or 0,
            spec.causal,
            spec.scale,
        )
        check(status, "attend")
        return z

    return attend


def supports(spec: AttentionSpec, block_size: int) -> bool:
    """Whether the native kernel takes these heads and blocks."""
    group = spec.n_heads // spec.n_kv_heads
    return spec.d_head <= _MAX_D_HEAD and group <= _MAX_GROUP and block_size % _LANES == 0
