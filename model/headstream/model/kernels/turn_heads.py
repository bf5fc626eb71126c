"""Norm and rotation of the heads of q and k: the native kernel and its torch twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from headstream.model.attention.base import AttentionSpec
from headstream.model.kernels import build
from headstream.model.kernels.library import check, functions
from headstream.model.kernels.norm import Gain, rms_norm_torch


@dataclass(frozen=True, slots=True, eq=False)
class RopeTable:
    """cos and sin of the rotation at every position, float32 [positions, r / 2].

    Dimension i is paired with i + r / 2 ("rotate half"), the order Hugging Face checkpoints are
    stored in; the dimensions from r on are not rotated.
    """

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What a layer does to the heads of q and k between the projection and attention."""

    q_gain: Gain | None = None  # [D]
    k_gain: Gain | None = None  # [D]
    rope: RopeTable | None = None


TurnHeads = Callable[[AttentionSpec, Tensor, Turn, Tensor], None]
"""(spec, qkv [M, (H + 2G) D], turn, positions int64 [M]): norms and rotates the heads of q and k in
place, computed in float32 and rounded once."""


def turn_heads_torch(spec: AttentionSpec, qkv: Tensor, turn: Turn, positions: Tensor) -> None:
    """The plain twin of the native kernel."""
    heads = qkv.unflatten(-1, (-1, spec.d_head))  # [M, H + 2G, D]
    parts = heads[:, : spec.n_heads], heads[:, spec.n_heads : spec.n_heads + spec.n_kv_heads]
    for part, gain in zip(parts, (turn.q_gain, turn.k_gain), strict=True):
        x = part.float()
        if gain is not None:
            x = rms_norm_torch(x, gain)
        if turn.rope is not None:
            x = rotate(x, turn.rope, positions)
        part.copy_(x)


def rotate(x: Tensor, rope: RopeTable, positions: Tensor) -> Tensor:
    """Turn the first r of the D dimensions of float32 x [M, heads, D]; a new [M, heads, D].

    RoFormer (Su et al. 2021, arXiv:2104.09864).
    """
    # [M, 1, r / 2]: the middle dimension spreads over heads
    cos, sin = (torch.index_select(t, 0, positions)[:, None] for t in (rope.cos, rope.sin))
    half = cos.shape[-1]
    first, second = x[..., :half], x[..., half : 2 * half]  # [M, heads, r / 2]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return torch.cat([*turned, x[..., 2 * half :]], dim=-1)


def load_native(cache_dir: Path) -> TurnHeads:
    """The compiled kernel.

    Raises:
        KernelUnavailableError: it cannot be built here; use :func:`turn_heads_torch`.
    """
    compiled = functions(build.load("turn_heads", cache_dir), "turn_heads", "pipiiippfppi")

    def turn_heads(spec: AttentionSpec, qkv: Tensor, turn: Turn, positions: Tensor) -> None:
        q_gain, k_gain, rope = turn.q_gain, turn.k_gain, turn.rope
        status = compiled[qkv.dtype](
            qkv.data_ptr(),
            qkv.shape[0],
            positions.data_ptr(),
            spec.n_heads,
            spec.n_kv_heads,
            spec.d_head,
            q_gain and q_gain.values.data_ptr(),
            k_gain and k_gain.values.data_ptr(),
            q_gain.eps if q_gain else 0.0,
            rope and rope.cos.data_ptr(),
            rope and rope.sin.data_ptr(),
            rope.cos.shape[1] if rope else 0,
        )
        check(status, "turn_heads")

    return turn_heads
