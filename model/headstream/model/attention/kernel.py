"""Attention through a kernel of ours: one call a layer for rows of every kind.

A row's bits depend on its own sequence alone: not on the batch, not on whether it was part of a
prompt, of a chunk of one, or decoded, and not on the number of threads (``kernels/attend.cpp``,
``kernels/gpu/attend.py``).
"""

from __future__ import annotations

from torch import Tensor

from headstream.model.attention.base import Attend, AttentionSpec
from headstream.model.batch import PackedBatch
from headstream.model.kernels import Kernels
from headstream.model.kv_cache import KVCache


class KernelAttention:
    """The backend: one per model. The kernel may keep the pools in a layout of its own."""

    def __init__(self, specs: tuple[AttentionSpec, ...], cache: KVCache, kernels: Kernels) -> None:
        assert kernels.attend is not None
        self.name = kernels.name
        self._specs = specs
        self._cache = cache
        self._kernel = kernels.attend

    def bind(self, batch: PackedBatch) -> Attend:
        """Nothing to prepare: the kernel reads the batch itself."""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            pools = self._cache.layer(layer)
            return self._kernel(self._specs[layer], q, k, v, pools, batch)

        return attend
