"""Which layers a request asks for."""

from __future__ import annotations

from collections.abc import Sequence

from headstream.server.errors import InvalidRequest
from headstream.server.wire.fields import check_count, check_distinct

FINAL = -1


def resolve_layer(field: str, layer: int, n_layers: int) -> int:
    """0..L as it is; -1 ("final") as it is; -2 is L, -3 is L - 1 and so on down to 0."""
    lowest = -(n_layers + 2)
    if not lowest <= layer <= n_layers:
        raise InvalidRequest(field, f"{layer} is not in [{lowest}, {n_layers}]")
    return layer if layer >= FINAL else layer + n_layers + 2


def resolve_layers(field: str, layers: Sequence[int], n_layers: int) -> tuple[int, ...]:
    """All of them, in the order asked; one layer under two numbers is refused."""
    check_count(field, layers, 0, n_layers + 2)
    resolved = tuple(
        resolve_layer(f"{field}[{i}]", layer, n_layers) for i, layer in enumerate(layers)
    )
    check_distinct(field, resolved)
    return resolved
