"""Attention over the block pool on a GPU: one kernel for rows of every kind.

A row's bits depend on its own sequence alone. Keys are read in tiles counted from position 0, tiles
are summed up in spans of ``_SPAN`` keys, spans are merged from the first to the last (online
softmax: Milakov and Gimelshein 2018, arXiv:1805.02867; FlashAttention: Dao et al. 2022,
arXiv:2205.14135). Where few rows see many keys the spans run side by side (FlashDecoding) and a
second kernel merges them by the same operations in the same order. A tile of rows has at
least ``_ROWS`` of them, so the matrix unit is used alike for a prompt of thousands and one token.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from headstream.model.attention.base import AttentionSpec
from headstream.model.batch import PackedBatch
from headstream.model.kv_cache import Pools

_ROWS = 64  # (token, query head of one key/value head) pairs of a tile; twice that in prompts
_SPAN = 1024  # keys
_MAX_D_HEAD = 256


def supports(spec: AttentionSpec, block_size: int) -> bool:
    """Whether the kernel takes these heads and blocks."""
    group = spec.n_heads // spec.n_kv_heads
    return spec.d_head <= _MAX_D_HEAD and group <= _ROWS and block_size % 16 == 0


def attend(
    spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, pools: Pools, batch: PackedBatch
) -> Tensor:
    """An ``AttendKernel``. Rows whose slot is negative are padding: nothing of them is written."""
    keys, values = pools
    rows, d_head = q.shape[0], spec.d_head
    width = triton.next_power_of_2(max(16, d_head))
    _write[(rows, spec.n_kv_heads)](
        k, v, keys, values, batch.slot_mapping, k.stride(0), keys.stride(1), keys.stride(2),
        D=d_head, WIDTH=width, num_warps=1,
    )  # fmt: skip
    z = torch.empty((rows, spec.n_heads, d_head), dtype=q.dtype, device=q.device)
    group = spec.n_heads // spec.n_kv_heads
    single = batch.max_seqlen_q == 1
    seqs = batch.context_lens.shape[0]
    spans = _spans(spec, batch.max_seqlen_k) if single else 1
    wide = q.dtype == torch.float32
    height = _ROWS if single or wide or width > 128 else 2 * _ROWS
    tiles = seqs if single else rows // (height // group) + seqs
    sums, scales = z, z
    if spans > 1:
        sums = torch.empty((rows, spec.n_heads, spans, d_head), device=q.device)
        scales = torch.empty((rows, spec.n_heads, spans, 2), device=q.device)
    _attend[(tiles, spec.n_kv_heads, spans)](
        q, keys, values, z, sums, scales,
        batch.cu_seqlens_q, batch.context_lens, batch.block_table, seqs,
        q.stride(0), keys.stride(0), keys.stride(1), keys.stride(2), *batch.block_table.stride(),
        spec.scale * math.log2(math.e), spec.window or 0, spans, CAUSAL=spec.causal,
        H=spec.n_heads, GROUP=group, D=d_head, WIDTH=width, BLOCK=keys.shape[1],
        ROWS=height, KEYS=32 if wide else 64, SPAN=_SPAN, SINGLE=single, PARTS=spans > 1,
        num_warps=8 if width > 128 or height > _ROWS else 4,
        num_stages=1 if wide else 2 if width > 128 else 3,
    )  # fmt: skip
    if spans > 1:
        _merge[(rows, spec.n_heads)](
            sums, scales, z, batch.context_lens, spec.window or 0, spans,
            H=spec.n_heads, D=d_head, WIDTH=width, SPAN=_SPAN, num_warps=4,
        )  # fmt: skip
    return z


def _spans(spec: AttentionSpec, max_context: int) -> int:
    """The most spans that a single row reaches into, whatever its place in them."""
    spans = -(-max_context // _SPAN)
    return min(spans, -(-spec.window // _SPAN) + 1) if spec.window else spans


@triton.jit
def _write(
    k, v, keys, values, slots, row_stride, slot_stride, head_stride,
    D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One head of one row: into its slot of both pools."""
    row, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + row)
    column = tl.arange(0, WIDTH)
    inside = column < tl.where(slot < 0, 0, D)
    source = row.to(tl.int64) * row_stride + head * D + column
    target = slot * slot_stride + head * head_stride + column
    tl.store(keys + target, tl.load(k + source, inside), inside)
    tl.store(values + target, tl.load(v + source, inside), inside)


@triton.jit
def _attend(
    q, keys, values, z, sums, scales,
    bounds, contexts, table, seqs,
    q_stride, block_stride, slot_stride, head_stride, seq_stride, entry_stride,
    scale, window, spans,
    H: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, SPAN: tl.constexpr,
    CAUSAL: tl.constexpr, SINGLE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A tile of rows of one sequence, the query heads of one key/value head side by side.

    Its number says which: sequence s has the tiles from bounds[s] // TOKENS + s on.
    """
    TOKENS: tl.constexpr = ROWS // GROUP
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    seq = tile
    if not SINGLE:
        seq = _find(bounds, seqs, tile, TOKENS)
    first, end = tl.load(bounds + seq), tl.load(bounds + seq + 1)
    context = tl.load(contexts + seq)
    token = tl.arange(0, ROWS) // GROUP
    head = kv_head * GROUP + tl.arange(0, ROWS) % GROUP
    if not SINGLE:
        token += (tile - first // TOKENS - seq) * TOKENS
    row = first + token  # [ROWS] in X
    inside = (token < end - first) & (tl.arange(0, ROWS) < TOKENS * GROUP)
    position = context - (end - first) + token  # [ROWS]
    column = tl.arange(0, WIDTH)
    cell = row.to(tl.int64)[:, None] * H + head[:, None]  # [ROWS, 1] of z
    mask = inside[:, None] & (column < D)[None, :]
    queries = tl.load(
        q + row.to(tl.int64)[:, None] * q_stride + head[:, None] * D + column[None, :], mask, 0.0
    )
    begin, high = _visible(position, inside, context, window, CAUSAL)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    span = begin // SPAN
    last = tl.cdiv(high, SPAN)
    if PARTS:
        span += tl.program_id(2)
        last = tl.minimum(last, span + 1)
    while span < last:
        part, part_weight, part_largest = _span(
            queries, keys + kv_head * head_stride, values + kv_head * head_stride,
            table + seq * seq_stride, position, high,
            tl.maximum(begin // KEYS * KEYS, span * SPAN), tl.minimum(high, (span + 1) * SPAN),
            block_stride, slot_stride, entry_stride, scale, window,
            CAUSAL, D, WIDTH, BLOCK, ROWS, KEYS,
        )  # fmt: skip
        if PARTS:
            place = cell * spans + tl.program_id(2)  # [ROWS, 1]
            tl.store(sums + place * D + column[None, :], part, mask)
            tl.store(scales + place * 2, part_largest[:, None], inside[:, None])
            tl.store(scales + place * 2 + 1, part_weight[:, None], inside[:, None])
        else:
            total, weight, largest = _join(total, weight, largest, part, part_weight, part_largest)
        span += 1
    if not PARTS:
        result = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
        tl.store(z + cell * D + column[None, :], result.to(z.dtype.element_ty), mask)


@triton.jit
def _visible(position, inside, context, window, CAUSAL: tl.constexpr):
    """The first key that any row of a tile sees, and the end of those."""
    begin = 0
    if window > 0:
        begin = tl.maximum(tl.min(tl.where(inside, position, 2147483647), 0) - window + 1, 0)
    end = tl.max(tl.where(inside, position, -1), 0) + 1
    if not CAUSAL:
        ahead = end + window - 1 if window > 0 else context
        end = tl.minimum(ahead, tl.where(end > 0, context, 0))
    return begin, end


@triton.jit
def _span(
    queries, keys, values, table, position, high, lower, upper,
    block_stride, slot_stride, entry_stride, scale, window,
    CAUSAL: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Sums [ROWS, D] over the keys [lower, upper), their weights and the largest score [ROWS]."""
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    column = tl.arange(0, WIDTH)[None, :]
    for start in range(lower, upper, KEYS):
        key = start + tl.arange(0, KEYS)
        there = key < high
        if BLOCK % KEYS == 0:
            entry = tl.load(table + start // BLOCK * entry_stride)
            inner = start % BLOCK + tl.arange(0, KEYS)
        else:
            entry = tl.load(table + key // BLOCK * entry_stride, there, 0)
            inner = key % BLOCK
        at = entry.to(tl.int64) * block_stride + inner * slot_stride
        some = there[:, None] & (column < D)
        k = tl.load(keys + at[:, None] + column, some, 0.0)  # [KEYS, WIDTH]
        v = tl.load(values + at[:, None] + column, some, 0.0)
        scores = tl.dot(queries, tl.trans(k), input_precision="ieee") * scale  # to base 2
        last = position if CAUSAL else tl.where(position < 0, -1, high - 1)
        if not CAUSAL and window > 0:
            last = tl.minimum(last, position + window - 1)
        visible = key[None, :] <= last[:, None]
        if window > 0:
            visible &= key[None, :] > position[:, None] - window
        scores = tl.where(visible, scores, -float("inf"))
        new = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(new == -float("inf"), 0.0, new)
        fade = tl.exp2(largest - shift)
        weights = tl.exp2(scores - shift[:, None])  # [ROWS, KEYS]
        weight = tl.fma(weight, fade, tl.sum(weights, 1))
        total = tl.dot(weights.to(v.dtype), v, total * fade[:, None], input_precision="ieee")
        largest = new
    return total, weight, largest


@triton.jit
def _find(bounds, seqs, tile, TOKENS: tl.constexpr):
    """The sequence of a tile, by halving."""
    low, high = 0, seqs
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(bounds + middle) // TOKENS + middle <= tile:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def _join(total, weight, largest, part, part_weight, part_largest):
    """Sums [ROWS, D] and weights [ROWS] of the keys so far and of the next span."""
    new = tl.maximum(largest, part_largest)
    shift = tl.where(new == -float("inf"), 0.0, new)
    fade, grow = tl.exp2(largest - shift), tl.exp2(part_largest - shift)
    # The fused operation is asked for, so that every kernel that does this rounds alike.
    total = tl.fma(total, tl.broadcast_to(fade[:, None], total.shape), part * grow[:, None])
    weight = tl.fma(weight, fade, part_weight * grow)
    return total, weight, new


@triton.jit
def _merge(
    sums, scales, z, contexts, window, spans,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """One head of a single row: the spans that it reaches into, from first to last."""
    row, head = tl.program_id(0), tl.program_id(1)
    context = tl.load(contexts + row)
    begin = 0
    if window > 0:
        begin = tl.maximum(context - window, 0)
    count = tl.cdiv(context, SPAN) - begin // SPAN
    column = tl.arange(0, WIDTH)[None, :]
    cell = row.to(tl.int64) * H + head
    total = tl.zeros((1, WIDTH), tl.float32)
    weight = tl.zeros((1,), tl.float32)
    largest = tl.full((1,), -float("inf"), tl.float32)
    one = tl.arange(0, 1)
    for span in range(count):
        place = cell * spans + span
        part = tl.load(sums + place * D + column, column < D, 0.0)
        part_largest = tl.load(scales + place * 2 + one)
        part_weight = tl.load(scales + place * 2 + 1 + one)
        total, weight, largest = _join(total, weight, largest, part, part_weight, part_largest)
    result = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
    tl.store(z + cell * D + column, result.to(z.dtype.element_ty), column < D)
