"""The block pool's memory: keys and values of every layer, written and read by slot."""

from __future__ import annotations

import torch
from torch import Tensor

from headstream.model.config import ModelConfig

_VECTOR = 16

Pools = tuple[Tensor, Tensor]
"""The K and the V pool of one layer: [num_blocks, block_size, G, D] each."""


class KVCache:
    """K and V of all layers, each [num_blocks, block_size, G, D], D in whole vectors of 16.

    An encoder keeps nothing from one step to the next: its layers take turns in one pool, where the
    native kernel lays out what it multiplies.

    Which block belongs to whom is the scheduler's business; here a slot is
    ``block_id * block_size + offset``. The memory is not touched before it is written, so blocks
    nobody has used yet cost no resident memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        width = _whole_vectors(config.d_head)
        shape = (2, _num_pools(config), num_blocks, block_size, config.n_kv_heads, width)
        self.device, self.dtype = device, dtype
        self._pool = torch.empty(shape, dtype=dtype, device=device)
        self._d_head = config.d_head

    def layer(self, layer: int) -> Pools:
        """The pools of one layer, counted from 0."""
        keys, values = self._pool[:, layer % self._pool.shape[1], ..., : self._d_head]
        return keys, values

    def write(self, layer: int, k: Tensor, v: Tensor, slot_mapping: Tensor) -> None:
        """Put ``k``, ``v`` [N, G, D] into the slots int64 [N]."""
        for pool, rows in zip(self.layer(layer), (k, v), strict=True):
            pool.flatten(0, 1).index_copy_(0, slot_mapping, rows)  # [slots, G, D]

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole blocks of all layers, int64 [C] each; all are read before any is written."""
        self._pool.index_copy_(2, targets, self._pool.index_select(2, sources))

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole pool."""
        return self._pool.numel() * self._pool.element_size()


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one block over all layers: 2 L block_size G D elements, D in whole vectors.

    L is 1 for an encoder.
    """
    width = _whole_vectors(config.d_head)
    elements = 2 * _num_pools(config) * block_size * config.n_kv_heads * width
    return elements * dtype.itemsize


def _num_pools(config: ModelConfig) -> int:
    return config.n_layers if config.causal else 1


def _whole_vectors(d_head: int) -> int:
    return -(-d_head // _VECTOR) * _VECTOR
