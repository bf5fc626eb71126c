"""The masks of tiles."""

from __future__ import annotations

import pytest
import torch

from headstream.model.attention.masks import TileMasks
from headstream.model.batch import PREFILL_GRID

G = PREFILL_GRID


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 1, 7, G - 1, G, G + 1, 600])
def test_masks_equal_brute_force(window: int | None, dtype: torch.dtype) -> None:
    masks = TileMasks()  # the same for all shapes: its strip grows on the way, and is cut again
    shapes = [(1, 1), (1, 9), (3, 3), (G, G), (G, 3 * G), (G, 2 * G), (17, 17), (5, 900), (G, 2000)]
    for rows, keys in [*shapes, *reversed(shapes)]:
        row = torch.arange(keys - rows, keys)[:, None]  # rows are the last of the keys
        key = torch.arange(keys)[None, :]
        visible = key <= row
        if window is not None:
            visible &= key > row - window
        mask = masks.get(window, rows, keys, dtype)
        if mask is None:
            assert torch.equal(visible, torch.ones(rows, keys, dtype=torch.bool).tril())
            continue
        assert mask.dtype == dtype
        assert torch.equal(
            mask, torch.zeros(rows, keys, dtype=dtype).masked_fill(~visible, -torch.inf)
        )


def test_the_first_tile_needs_no_mask() -> None:
    masks = TileMasks()
    assert masks.get(None, 20, 20, torch.float32) is None
    assert masks.get(20, 20, 20, torch.float32) is None
    assert masks.get(19, 20, 20, torch.float32) is not None
