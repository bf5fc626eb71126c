"""Attention of single query rows over the block pool: the native kernel and its torch twin."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from headstream.model.attention.base import AttentionSpec
from headstream.model.kernels import build
from headstream.model.kv_cache import Pools

_MAX_D_HEAD = 256
_GROUPS = (1, 2, 3, 4, 5, 6, 7, 8, 16)


@dataclass(frozen=True, slots=True, eq=False)
class QueryRows:
    """Rows of the packed batch that are attended one by one, each over its own context."""

    rows: Tensor  # int64 [M]      row in X
    seqs: Tensor  # int64 [M]      row in the block table
    contexts: Tensor  # int64 [M]  keys visible, the row's own included
    block_table: Tensor  # int32 [S, B]


AttendRows = Callable[[AttentionSpec, Tensor, Pools, Tensor, QueryRows], None]
"""(spec, q [N, H, D], K and V pool, z [N, H, D], rows): fills these rows of z."""


def attend_rows_torch(
    spec: AttentionSpec, q: Tensor, pools: Pools, z: Tensor, work: QueryRows
) -> None:
    """The plain twin of the native kernel: one row after the other, in float32."""
    group = spec.n_heads // spec.n_kv_heads
    block_size = pools[0].shape[1]
    for row, seq, context in zip(
        work.rows.tolist(), work.seqs.tolist(), work.contexts.tolist(), strict=True
    ):
        first = max(0, context - spec.window) if spec.window else 0
        blocks = work.block_table[seq, first // block_size : -(-context // block_size)].long()
        lead = first % block_size
        keys, values = (
            pool[blocks].flatten(0, 1)[lead : lead + context - first].float() for pool in pools
        )  # [keys, G, D]
        query = q[row].view(spec.n_kv_heads, group, spec.d_head).float()  # [G, group, D]
        scores = query @ keys.permute(1, 2, 0) * spec.scale  # [G, group, keys]
        attended = torch.softmax(scores, dim=-1) @ values.transpose(0, 1)  # [G, group, D]
        z[row] = attended.reshape(spec.n_heads, spec.d_head).to(z.dtype)


def load_native(cache_dir: Path) -> AttendRows:
    """The compiled kernel.

    Raises:
        KernelUnavailableError: it cannot be built here; use :func:`attend_rows_torch`.
    """
    library = build.load("attend_rows", cache_dir)
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    functions: dict[torch.dtype, Callable[..., int]] = {}
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        function = getattr(library, f"attend_rows_{name}")
        function.argtypes = [*[pointer] * 7, integer, pointer, *[integer] * 6, ctypes.c_float]
        functions[dtype] = function

    def attend(spec: AttentionSpec, q: Tensor, pools: Pools, z: Tensor, work: QueryRows) -> None:
        function = functions[q.dtype]
        status = function(
            *(t.data_ptr() for t in (q, *pools, z, work.rows, work.seqs, work.contexts)),
            work.rows.numel(),
            work.block_table.data_ptr(),
            work.block_table.stride(0),
            spec.n_heads,
            spec.n_kv_heads,
            spec.d_head,
            pools[0].shape[1],
            spec.window or 0,
            spec.scale,
        )
        if status != 0:
            raise AssertionError(f"attend_rows refused a shape that supports() let through: {spec}")

    return attend


def supports(spec: AttentionSpec) -> bool:
    """Whether the native kernel was compiled for these heads."""
    return spec.d_head <= _MAX_D_HEAD and spec.n_heads // spec.n_kv_heads in _GROUPS
