"""Attention on CPU through the native kernel: one call a layer for rows of every kind.

A row's bits depend on its own sequence alone: not on the batch, not on whether it was part of a
prompt, of a chunk of one, or decoded, and not on the number of threads (``kernels/attend.cpp``).
"""

from __future__ import annotations

from torch import Tensor

from headstream.model.attention.base import Attend, AttentionSpec
from headstream.model.batch import PackedBatch
from headstream.model.kernels.attend import AttendKernel
from headstream.model.kv_cache import KVCache


class NativeAttention:
    """The backend: one per model. The kernel keeps the pools in a layout of its own."""

    name = "native"

    def __init__(
        self, specs: tuple[AttentionSpec, ...], cache: KVCache, kernel: AttendKernel
    ) -> None:
        self._specs = specs
        self._cache = cache
        self._kernel = kernel

    def bind(self, batch: PackedBatch) -> Attend:
        """Nothing to prepare: the kernel reads the batch itself."""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            pools = self._cache.layer(layer)
            return self._kernel(self._specs[layer], q, k, v, pools, batch)

        return attend
