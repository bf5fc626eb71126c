"""Attention on CPU with torch alone, exact to the bit for a request whoever shares its step.

Prompt rows go through SDPA in tiles of ``TILE`` positions counted from the request's own token 0.
All other rows are attended one by one over the block table. Which kernel a row meets, and which
rows share its tile, depends on the request alone, so its bits do too: the scheduler cuts prompts on
the tile grid only (``PREFILL_GRID``).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from headstream.model.attention.base import Attend, AttentionSpec
from headstream.model.attention.masks import TileMasks
from headstream.model.batch import PREFILL_GRID as TILE
from headstream.model.batch import PackedBatch
from headstream.model.kv_cache import KVCache, Pools


@dataclass(frozen=True, slots=True, eq=False)
class _Prompt:
    """The prompt rows of one sequence: rows [row, row + length) of X at positions [start, ...)."""

    row: int
    start: int
    length: int
    blocks: Tensor  # int64: the sequence's block ids

    def tiles(self) -> list[tuple[int, int]]:
        """Half-open position ranges, cut at multiples of TILE."""
        end = self.start + self.length
        first_cut = (self.start // TILE + 1) * TILE
        cuts = [self.start, *range(first_cut, end, TILE), end]
        return list(pairwise(cuts))


@dataclass(frozen=True, slots=True, eq=False)
class _QueryRows:
    """Rows of the packed batch that are attended one by one, each over its own context."""

    rows: Tensor  # int64 [M]      row in X
    seqs: Tensor  # int64 [M]      row in the block table
    contexts: Tensor  # int64 [M]  keys visible, the row's own included
    block_table: Tensor  # int32 [S, B]


class SdpaAttention:
    """The backend: one per model."""

    name = "sdpa"

    def __init__(self, specs: tuple[AttentionSpec, ...], cache: KVCache) -> None:
        self._specs = specs
        self._cache = cache
        self._masks = TileMasks()

    def bind(self, batch: PackedBatch) -> Attend:
        """Split the rows of a step into prompts and single rows, once for all layers."""
        prompts, rows = _split(batch)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._cache.write(layer, k, v, batch.slot_mapping)
            spec = self._specs[layer]
            pools = self._cache.layer(layer)
            q = q.contiguous()
            z = torch.empty_like(q)  # [N, H, D]
            for prompt in prompts:
                self._attend_prompt(spec, prompt, q, pools, z)
            if rows.rows.numel():
                _attend_rows(spec, q, pools, z, rows)
            return z

        return attend

    def _attend_prompt(
        self, spec: AttentionSpec, prompt: _Prompt, q: Tensor, pools: Pools, z: Tensor
    ) -> None:
        """Fill the prompt's rows of ``z``, tile by tile."""
        first = _first_key(spec, prompt.start)
        # [keys, G, D] each, from position `first` on
        keys, values = (_gather(pool, prompt, first) for pool in pools)
        for begin, end in prompt.tiles():
            rows = slice(prompt.row + begin - prompt.start, prompt.row + end - prompt.start)
            visible = slice(_first_key(spec, begin) - first, end - first)
            mask = self._masks.get(spec.window, end - begin, visible.stop - visible.start, q.dtype)
            z[rows] = attend_tile(
                spec, q[rows], keys[visible], values[visible], mask=mask, is_causal=mask is None
            )


def attend_tile(
    spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, is_causal: bool
) -> Tensor:
    """Rows q [T, H, D] over k, v [keys, G, D]: [T, H, D].

    ``mask``: [T, keys], added to the scores. ``is_causal``: row i sees the keys up to i.
    """
    group = spec.n_heads // spec.n_kv_heads
    # KV heads stand on the batch axis, so each serves its query heads without a copy.
    query = q.unflatten(1, (spec.n_kv_heads, group)).permute(1, 2, 0, 3)  # [G, group, T, D]
    key, value = (
        t.permute(1, 0, 2).unsqueeze(1).expand(-1, group, -1, -1) for t in (k, v)
    )  # [G, group, keys, D]
    tile = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, scale=spec.scale
    )  # [G, group, T, D]
    return tile.permute(2, 0, 1, 3).flatten(1, 2)


def _first_key(spec: AttentionSpec, position: int) -> int:
    """First key that the row at ``position`` sees."""
    return max(0, position - spec.window + 1) if spec.window else 0


def _gather(pool: Tensor, prompt: _Prompt, first: int) -> Tensor:
    """The sequence's rows [first, prompt end) out of the pool: [rows, G, D]."""
    block_size = pool.shape[1]
    end = prompt.start + prompt.length
    blocks = prompt.blocks[first // block_size : -(-end // block_size)]
    lead = first % block_size
    return pool[blocks].flatten(0, 1)[lead : lead + end - first]


def _split(batch: PackedBatch) -> tuple[list[_Prompt], _QueryRows]:
    """Prompt rows by sequence, and all other rows."""
    prompts: list[_Prompt] = []
    rows: list[int] = []
    seqs: list[int] = []
    contexts: list[int] = []
    bounds = batch.cu_seqlens_q.tolist()
    for seq, (context, prompt_rows) in enumerate(
        zip(batch.context_lens.tolist(), batch.prompt_rows.tolist(), strict=True)
    ):
        begin, end = bounds[seq], bounds[seq + 1]
        start = context - (end - begin)  # position of the first row
        if prompt_rows:
            blocks = batch.block_table[seq].long()
            prompts.append(_Prompt(begin, start, prompt_rows, blocks))
        for row in range(begin + prompt_rows, end):
            rows.append(row)
            seqs.append(seq)
            contexts.append(start + row - begin + 1)
    table = batch.block_table.contiguous()
    return prompts, _QueryRows(
        torch.tensor(rows), torch.tensor(seqs), torch.tensor(contexts), table
    )


def _attend_rows(spec: AttentionSpec, q: Tensor, pools: Pools, z: Tensor, work: _QueryRows) -> None:
    """Fill these rows of z [N, H, D], one after the other, in float32."""
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
