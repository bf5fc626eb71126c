"""Masks of prompt tiles, cut from one strip a window."""

from __future__ import annotations

import torch
from torch import Tensor

from headstream.model.batch import PREFILL_GRID as TILE


class TileMasks:
    """Additive masks of a tile: rows [begin, end) over the keys up to ``end``.

    Counted back from the last key, the mask of every tile is the same, so one strip [TILE, keys] a
    window serves all: a tile of T rows and K keys is its last T rows and last K columns.
    """

    def __init__(self) -> None:
        self._strips: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def get(self, window: int | None, rows: int, keys: int, dtype: torch.dtype) -> Tensor | None:
        """The mask [rows, keys]: 0 where a row sees a key, -inf elsewhere.

        None where plain causal masking says the same: the tile begins at key 0.
        """
        if rows == keys and (window is None or keys <= window):
            return None
        strip = self._strips.get((window, dtype))
        if strip is None or strip.shape[1] < keys:
            strip = _strip(window, max(keys, 2 * TILE), dtype)
            self._strips[window, dtype] = strip
        return strip[TILE - rows :, strip.shape[1] - keys :]


def _strip(window: int | None, keys: int, dtype: torch.dtype) -> Tensor:
    """[TILE, keys]; row i is TILE - i keys from the end, its own key included."""
    behind = torch.arange(keys, 0, -1)  # [keys] distance of each key from the end
    own = torch.arange(TILE, 0, -1).unsqueeze(1)  # [TILE, 1] the same of each row's own key
    visible = behind >= own
    if window is not None:
        visible &= behind < own + window
    return torch.zeros(TILE, keys, dtype=dtype).masked_fill_(~visible, float("-inf"))
