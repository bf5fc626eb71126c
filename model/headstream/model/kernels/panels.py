"""Weights in panels of 16 columns, the layout that the native products read (tile.h)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from headstream.model.kernels import build
from headstream.model.kernels.library import functions

LANES = 16
"""Columns of a panel."""


class PackPanels:
    """The compiled packing."""

    def __init__(self, cache_dir: Path) -> None:
        """Raises KernelUnavailableError: it cannot be built here."""
        self._pack = functions(build.load("panels", cache_dir), "pack", "piip")

    def __call__(self, weight: Tensor) -> Tensor:
        """Weight [out, K], K even -> panels [ceil(out / 16), K, 16], with zeros at the end."""
        weight = weight.contiguous()
        columns, depth = weight.shape
        panels = weight.new_empty(-(-columns // LANES), depth, LANES)
        self._pack[weight.dtype](weight.data_ptr(), columns, depth, panels.data_ptr())
        return panels
