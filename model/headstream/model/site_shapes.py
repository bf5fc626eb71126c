"""What each place inside a model holds: the one table, for whoever reads or changes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from headstream.model.sites import SiteName

PATTERN_SITES: tuple[SiteName, ...] = ("attn_scores", "pattern")
_READ_ONLY: tuple[SiteName, ...] = (*PATTERN_SITES, "pos_embed", "ln_final")


class Sizes(Protocol):
    """Sizes of a model, such as those of its config."""

    @property
    def n_layers(self) -> int:
        """Layers."""
        ...

    @property
    def n_heads(self) -> int:
        """Query heads."""
        ...

    @property
    def n_kv_heads(self) -> int:
        """Key/value heads."""
        ...

    @property
    def d_head(self) -> int:
        """Width of a head."""
        ...

    @property
    def d_mlp(self) -> int:
        """Width inside an MLP."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        ...


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
        """Whether it can be changed, not only read."""
        return self.name not in _READ_ONLY


def shape_of(name: SiteName, sizes: Sizes) -> SiteShape:
    """The shape of a place in a model that has it."""
    layers = range(1, sizes.n_layers + 1)
    match name:
        case "embed" | "pos_embed":
            return SiteShape(name, range(1), 0, sizes.d_model, per_layer=False)
        case "ln_final":
            return SiteShape(name, layers[-1:], 0, sizes.d_model, per_layer=False)
        case "k" | "v":
            return SiteShape(name, layers, sizes.n_kv_heads, sizes.d_head)
        case "q" | "z":
            return SiteShape(name, layers, sizes.n_heads, sizes.d_head)
        case "attn_scores" | "pattern":
            return SiteShape(name, layers, sizes.n_heads, 0)
        case "mlp_post":
            return SiteShape(name, layers, 0, sizes.d_mlp)
        case _:
            return SiteShape(name, layers, 0, sizes.d_model)
