"""Logit rows on a GPU and what is found in them: the product, then one look at each row.

The largest entries of a row stand in those of its chunks that have the largest maxima, so two short
searches find them. Entries are ordered by one integer, a logit above its token id, which no two
entries share: equal logits come in the order of their ids, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from headstream.model.kernels.gpu.linear import Product
from headstream.model.kernels.unembed import LogitRows, Targets, Unembed, look_at

_CHUNK = 128  # entries of a row of which the largest is noted
_PART = 4096  # entries of a row that one program sums
_SLICE = 128  # rows whose logits are held at once


def unembed(weight: Tensor, softcap: float | None) -> Unembed:
    """A ``MakeUnembed``."""
    product = Product(weight, None, softcap=softcap or 0.0)

    def look_through(
        x: Tensor, count: int, keep: Sequence[int], targets: Tensor | None = None
    ) -> LogitRows:
        parts: list[LogitRows] = []
        for begin in range(0, max(1, x.shape[0]), _SLICE):
            logits = product(x[begin : begin + _SLICE], torch.float32)  # [slice, V]
            here = [row - begin for row in keep if begin <= row < begin + len(logits)]
            ids = None if targets is None else targets[begin : begin + _SLICE]
            parts.append(_look_through(logits, count, here, ids))
        return parts[0] if len(parts) == 1 else _join(parts)

    return look_through


def _join(parts: list[LogitRows]) -> LogitRows:
    values, ids, log_totals, kept = map(torch.cat, zip(*(part[:4] for part in parts), strict=True))
    chosen = [part.targets for part in parts if part.targets is not None]
    targets = Targets(*map(torch.cat, zip(*chosen, strict=True))) if chosen else None
    return LogitRows(values, ids, log_totals, kept, targets)


def _look_through(logits: Tensor, count: int, keep: list[int], targets: Tensor | None) -> LogitRows:
    rows, d_vocab = logits.shape
    parts = -(-d_vocab // _PART)
    chunks = parts * (_PART // _CHUNK)
    keys = torch.empty((rows, chunks), dtype=torch.int64, device=logits.device)
    sums = torch.empty((rows, parts, 3), device=logits.device)
    if rows:
        _scan[(rows, parts)](
            logits, keys, sums, D_VOCAB=d_vocab, PART=_PART, CHUNK=_CHUNK, num_warps=4
        )
    values, ids = _largest(logits, keys, count)
    largest, totals, weighted = sums.unbind(2)  # [rows, parts] each
    top = largest.amax(1, keepdim=True)  # [rows, 1]
    share = (largest - top).double().exp()
    total = (totals * share).sum(1)  # [rows] of exp(logit - top)
    # Of exp(logit - top) * (logit - top): the parts' own sums lie lower by their own maximum.
    below = ((weighted + totals * (largest - top)) * share).sum(1)
    log_totals = top[:, 0].double() + total.log()
    found = None
    if targets is not None:
        found = look_at(logits, targets, (total.log() - below / total).float())
    kept = logits if len(keep) == rows else logits[keep]
    return LogitRows(values, ids, log_totals.float(), kept, found)


def _largest(logits: Tensor, chunk_keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest entries [rows, count] and their ids."""
    d_vocab = logits.shape[1]
    best = chunk_keys.topk(min(count, chunk_keys.shape[1])).indices  # [rows, chunks that matter]
    ids = best[:, :, None] * _CHUNK + torch.arange(_CHUNK, device=logits.device)
    ids = ids.flatten(1)  # [rows, candidates]
    values = logits.gather(1, ids.clamp(max=d_vocab - 1)).masked_fill(ids >= d_vocab, -torch.inf)
    place = _keys(values, ids).topk(count).indices
    return values.gather(1, place), ids.gather(1, place)


def _keys(values: Tensor, ids: Tensor) -> Tensor:
    """int64 of the same shape: larger where the value is, or where it is equal and the id lower."""
    bits = (values + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) - ids


@triton.jit
def _scan(logits, keys, sums, D_VOCAB: tl.constexpr, PART: tl.constexpr, CHUNK: tl.constexpr):
    """A part of a row: the largest key of each chunk, and three sums of the part.

    They are its largest entry, the sum of exp(entry - largest), and of that times
    (entry - largest).
    """
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    chunks: tl.constexpr = PART // CHUNK
    chunk = part * chunks + tl.arange(0, chunks)
    ids = chunk[:, None] * CHUNK + tl.arange(0, CHUNK)[None, :]  # [chunks, CHUNK]
    inside = ids < D_VOCAB
    values = tl.load(logits + row * D_VOCAB + ids, inside, -float("inf"))
    bits = (values + 0.0).to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = (ordered.to(tl.int64) << 32) - ids
    tl.store(keys + row * tl.num_programs(1) * chunks + chunk, tl.max(key, 1))
    largest = tl.max(tl.max(values, 1), 0)
    below = tl.where(inside, values - largest, 0.0)
    weights = tl.where(inside, tl.exp(below), 0.0)
    place = sums + (row * tl.num_programs(1) + part) * 3
    tl.store(place, largest)
    tl.store(place + 1, tl.sum(tl.sum(weights, 1), 0))
    tl.store(place + 2, tl.sum(tl.sum(weights * below, 1), 0))
