"""Rows of the static embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LookUp = Callable[[Tensor, Tensor], Tensor]
"""(E [V, d], ids int64 [n]): rows of E [n, d], always a fresh tensor."""


def look_up_rows(weight: Tensor, ids: Tensor) -> Tensor:
    """A ``LookUp``."""
    return torch.index_select(weight, 0, ids)
