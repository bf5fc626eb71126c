"""The attention interface: one signature for every device.

A family hands over the fresh queries, keys and values of all N rows; the backend writes keys and
values into the block pool and answers with the attended values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from headstream.model.batch import PackedBatch


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What attention needs to know of one layer."""

    n_heads: int  # H
    n_kv_heads: int  # G, divides H
    d_head: int  # D
    scale: float  # multiplies q . k
    window: int | None = None  # a row sees itself and the window - 1 rows before it; None: all
    causal: bool = True  # otherwise it sees the rows behind it too, as far as those before it


class Attend(Protocol):
    """Attention of one step, bound to its packed batch."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write ``k``, ``v`` [N, G, D] into the cache of ``layer``, attend with ``q`` [N, H, D].

        ``layer`` counts from 0. Returns z [N, H, D], before the output projection.
        """
        ...


class AttentionBackend(Protocol):
    """Attends over the block pool of every layer."""

    name: str  # of its kernels

    def bind(self, batch: PackedBatch) -> Attend:
        """Prepare what all layers of one step share (masks, row lists), once a step."""
        ...
