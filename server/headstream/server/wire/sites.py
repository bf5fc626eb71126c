"""Places inside the model: which there are, what they hold, and which of it a request names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from headstream.model.sites import SiteName
from headstream.server.engine.messages import Ready
from headstream.server.errors import InvalidRequest
from headstream.server.wire.fields import check_count, check_distinct, check_int

_READ_ONLY: tuple[SiteName, ...] = ("attn_scores", "pattern", "pos_embed", "ln_final")


@dataclass(frozen=True, slots=True)
class SiteShape:
    """What a place holds of each row."""

    name: SiteName
    layers: range  # those it is in; of one that is in none 0 or L
    heads: int  # 0: none
    width: int  # values of a row, or of a head of a row; 0: one for each key
    per_layer: bool = True

    @property
    def changeable(self) -> bool:
        """Whether an intervention can be made there."""
        return self.name not in _READ_ONLY

    def resolve_layers(self, field: str, layers: Sequence[int]) -> tuple[int, ...]:
        """The layers named, ascending; where none is, all."""
        if not layers:
            return tuple(self.layers)
        if not self.per_layer and tuple(layers) != tuple(self.layers):
            raise InvalidRequest(field, f"{self.name} is in no layer; name none")
        return check_members(field, layers, self.layers.start, self.layers.stop - 1)

    def resolve_heads(self, field: str, heads: Sequence[int]) -> tuple[int, ...]:
        """The heads named, ascending; where none is, all."""
        if heads and not self.heads:
            raise InvalidRequest(field, f"{self.name} has no heads")
        return check_members(field, heads, 0, self.heads - 1) or tuple(range(self.heads))


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
    return {name: _shape(name, ready) for name in ready.sites}


def find_site(field: str, name: str, ready: Ready) -> SiteShape:
    """The place of that name."""
    shapes = site_shapes(ready)
    for known, shape in shapes.items():
        if name == known:
            return shape
    raise InvalidRequest(
        field, f"{name[:100]!r} is no site of this model; it has {', '.join(shapes)}"
    )


def _shape(name: SiteName, ready: Ready) -> SiteShape:
    layers = range(1, ready.n_layers + 1)
    match name:
        case "embed" | "pos_embed":
            return SiteShape(name, range(1), 0, ready.d_model, per_layer=False)
        case "ln_final":
            last = layers[-1:]
            return SiteShape(name, last, 0, ready.d_model, per_layer=False)
        case "k" | "v":
            return SiteShape(name, layers, ready.n_kv_heads, ready.d_head)
        case "q" | "z":
            return SiteShape(name, layers, ready.n_heads, ready.d_head)
        case "attn_scores" | "pattern":
            return SiteShape(name, layers, ready.n_heads, 0)
        case "mlp_post":
            return SiteShape(name, layers, 0, ready.d_mlp)
        case _:
            return SiteShape(name, layers, 0, ready.d_model)
