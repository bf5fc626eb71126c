"""Places inside the model: which there are, and which of it a request names."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from headstream.model.site_shapes import SiteShape, shape_of
from headstream.model.sites import SiteName
from headstream.server.engine.messages import Ready
from headstream.server.errors import InvalidRequest
from headstream.server.wire.fields import check_count, check_distinct, check_int


def resolve_layers(field: str, layers: Sequence[int], shape: SiteShape) -> tuple[int, ...]:
    """The layers of a place that are named, ascending; where none is, all."""
    if not layers:
        return tuple(shape.layers)
    if not shape.per_layer and tuple(layers) != tuple(shape.layers):
        raise InvalidRequest(field, f"{shape.name} is in no layer; name none")
    return check_members(field, layers, shape.layers.start, shape.layers.stop - 1)


def resolve_heads(field: str, heads: Sequence[int], shape: SiteShape) -> tuple[int, ...]:
    """The heads of a place that are named, ascending; where none is, all."""
    if heads and not shape.heads:
        raise InvalidRequest(field, f"{shape.name} has no heads")
    return check_members(field, heads, 0, shape.heads - 1) or tuple(range(shape.heads))


def check_members(field: str, numbers: Collection[int], low: int, high: int) -> tuple[int, ...]:
    """The numbers, ascending, if each lies in [low, high] and none is there twice."""
    check_count(field, numbers, 0, high - low + 1)
    checked = [check_int(f"{field}[{i}]", number, low, high) for i, number in enumerate(numbers)]
    check_distinct(field, checked)
    return tuple(sorted(checked))


def key_bytes(ready: Ready) -> int:
    """Bytes of the keys of one token in one layer, which are kept to compute attention weights."""
    return ready.n_kv_heads * ready.d_head * 4  # float32 at most


def site_shapes(ready: Ready) -> dict[SiteName, SiteShape]:
    """All places of a model."""
    return {name: shape_of(name, ready) for name in ready.sites}


def find_site(field: str, name: str, ready: Ready) -> SiteShape:
    """The place of that name."""
    shapes = site_shapes(ready)
    for known, shape in shapes.items():
        if name == known:
            return shape
    raise InvalidRequest(
        field, f"{name[:100]!r} is no site of this model; it has {', '.join(shapes)}"
    )
