from __future__ import annotations

import pytest

from headstream.server.wire.layers import resolve_layer, resolve_layers


@pytest.mark.parametrize(
    ("asked", "resolved"), [(0, 0), (12, 12), (-1, -1), (-2, 12), (-3, 11), (-14, 0)]
)
def test_numbers_from_both_ends(asked: int, resolved: int) -> None:
    assert resolve_layer("layer", asked, n_layers=12) == resolved


def test_order_is_kept() -> None:
    assert resolve_layers("layers", [-1, 3, 0, -2], n_layers=12) == (-1, 3, 0, 12)
