"""Weights in panels of 16 columns, the layout that the native products read (tile.h)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from headstream.model.kernels import build
from headstream.model.kernels.arena import Arena
from headstream.model.kernels.int8 import Int8Weight
from headstream.model.kernels.library import Function, functions

LANES = 16
"""Columns of a panel."""


class Panels(NamedTuple):
    """A packed weight."""

    numbers: Tensor  # [ceil(out / 16), K, 16], with zeros at the end
    scales: Tensor | None  # float32 [ceil(out / 16) * 16], of int8


class PackPanels:
    """The compiled packing, and the choice of how weights are stored."""

    def __init__(self, cache_dir: Path, *, int8: bool = False) -> None:
        """``int8``: weights are quantized; otherwise they keep their dtype.

        Raises:
            KernelUnavailableError: it cannot be built here.
        """
        self.int8 = int8
        self._arena = Arena()
        self.suffix = "_int8" if int8 else ""  # of the sources that multiply such panels
        self._pack = functions(build.load("panels", cache_dir), f"pack{self.suffix}", "piip")

    def __call__(self, weight: Tensor) -> Panels:
        """Pack weight [out, K], K even, for activations of its dtype."""
        pack = self._pack[weight.dtype]
        if not self.int8:
            return Panels(self._packed(pack, weight), None)
        quantized = Int8Weight.quantize(weight)
        return Panels(self._packed(pack, quantized.numbers), pad_columns(quantized.scales))

    def _packed(self, pack: Function, weight: Tensor) -> Tensor:
        weight = weight.contiguous()
        columns, depth = weight.shape
        panels = self._arena.empty((-(-columns // LANES), depth, LANES), weight.dtype)
        pack(weight.data_ptr(), columns, depth, panels.data_ptr())
        return panels


def pad_columns(values: Tensor) -> Tensor:
    """Values [out] of the columns, with zeros to whole panels."""
    return F.pad(values, (0, -len(values) % LANES))
