"""Norm and rotation of the heads of q and k on a GPU: one program a head of a row."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from headstream.model.attention.base import AttentionSpec
from headstream.model.kernels.turn_heads import Turn


def turn_heads(spec: AttentionSpec, qkv: Tensor, turn: Turn, positions: Tensor) -> None:
    """A ``TurnHeads``."""
    q_gain, k_gain, rope = turn.q_gain, turn.k_gain, turn.rope
    _turn[(qkv.shape[0], spec.n_heads + spec.n_kv_heads)](
        qkv, positions, q_gain and q_gain.values, k_gain and k_gain.values,
        rope and rope.cos, rope and rope.sin,
        q_gain.eps if q_gain else 0.0, k_gain.eps if k_gain else 0.0, qkv.stride(0),
        H=spec.n_heads, D=spec.d_head, HALF=rope.cos.shape[1] if rope else 0,
        WIDTH=triton.next_power_of_2(spec.d_head),
        # One warp: it reads all of its head before it writes any.
        num_warps=1,
    )  # fmt: skip


@triton.jit
def _turn(
    qkv, positions, q_gain, k_gain, cos, sin, q_eps, k_eps, stride,
    H: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, WIDTH)
    inside = column < D
    start = qkv + row.to(tl.int64) * stride + head * D
    # Dimension i turns with i + r / 2.
    turned = column < 2 * HALF
    partner = tl.where(column < HALF, column + HALF, column - HALF)
    x = tl.load(start + column, inside, 0.0).to(tl.float32)
    other = tl.load(start + partner, inside & turned, 0.0).to(tl.float32)
    if head < H:
        x, other = _norm(x, other, q_gain, q_eps, column, partner, inside, turned, D)
    else:
        x, other = _norm(x, other, k_gain, k_eps, column, partner, inside, turned, D)
    if cos is not None:
        position = tl.load(positions + row)
        angle = position * HALF + tl.where(column < HALF, column, partner)
        c, s = tl.load(cos + angle, turned, 1.0), tl.load(sin + angle, turned, 0.0)
        x = x * c + tl.where(column < HALF, -other, other) * s
    tl.store(start + column, x.to(qkv.dtype.element_ty), inside)


@triton.jit
def _norm(x, other, gain, eps, column, partner, inside, turned, D: tl.constexpr):
    if gain is not None:
        scale = tl.rsqrt(tl.sum(x * x, 0) / D + eps)
        x = x * scale * tl.load(gain + column, inside, 0.0)
        other = other * scale * tl.load(gain + partner, inside & turned, 0.0)
    return x, other
