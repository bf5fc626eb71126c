"""Places inside a model, by their names here and in TransformerLens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from headstream.v1 import internals_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

SiteName: TypeAlias = Literal[
    "embed",
    "pos_embed",
    "resid_pre",
    "resid_mid",
    "resid_post",
    "q",
    "k",
    "v",
    "attn_scores",
    "pattern",
    "z",
    "attn_out",
    "mlp_post",
    "mlp_out",
    "ln_final",
]

_NAMES: tuple[SiteName, ...] = get_args(SiteName)
_ATTENTION = ("q", "k", "v", "attn_scores", "pattern", "z")
_OUTSIDE: Mapping[SiteName, str] = {
    "embed": "hook_embed",
    "pos_embed": "hook_pos_embed",
    "ln_final": "ln_final.hook_out",  # hook_normalized stands before the gain
}
_HOOK = re.compile(r"blocks\.(\d+)\.(attn\.hook_(?:rot_)?|mlp\.hook_|hook_)(\w+)")


@dataclass(frozen=True, slots=True)
class Site:
    """A place to read, and which part of it."""

    name: SiteName
    layers: Sequence[int] = ()  # 1 to L; empty: all
    heads: Sequence[int] = ()  # from 0; empty: all


def hook_name(site: SiteName, layer: int, *, rotary: bool = False) -> str:
    """The name of a place in TransformerLens, whose layers count from 0.

    Args:
        site: Its name.
        layer: 1 to L; of no account where the place is in none.
        rotary: The model tells positions by rotating q and k, which has been done here.
    """
    if site in _OUTSIDE:
        return _OUTSIDE[site]
    block = f"blocks.{layer - 1}"
    if site in _ATTENTION:
        return f"{block}.attn.hook_{'rot_' if rotary and site in {'q', 'k'} else ''}{site}"
    return f"{block}.mlp.hook_post" if site == "mlp_post" else f"{block}.hook_{site}"


def parse_hook(hook: str) -> tuple[SiteName, int | None]:
    """The place of that name in TransformerLens, and its layer, 1 to L; None: it is in none.

    Raises:
        KeyError: There is no such place.
    """
    for site, name in _OUTSIDE.items():
        if hook == name:
            return site, None
    if (match := _HOOK.fullmatch(hook)) is not None:
        site = cast("SiteName", "mlp_post" if match[2] == "mlp.hook_" else match[3])
        layer = int(match[1]) + 1
        if site in _NAMES and hook in {hook_name(site, layer, rotary=way) for way in (False, True)}:
            return site, layer
    raise KeyError(hook)


def site_messages(sites: str | Site | Sequence[str | Site]) -> list[pb.Site]:
    """The places as the contract has them; hook names of one place are put together.

    Raises:
        ValueError: A name is neither that of a place nor of a hook.
    """
    several = [sites] if isinstance(sites, (str, Site)) else sites
    messages: list[pb.Site] = []
    hooks: dict[str, pb.Site] = {}
    for site in several:
        if isinstance(site, Site):
            messages.append(pb.Site(name=site.name, layers=site.layers, heads=site.heads))
        elif site in _NAMES:
            messages.append(pb.Site(name=site))
        else:
            name, layer = _parse_wanted(site)
            if name not in hooks:
                hooks[name] = pb.Site(name=name)
                messages.append(hooks[name])
            hooks[name].layers.extend([] if layer is None else [layer])
    return messages


def _parse_wanted(name: str) -> tuple[SiteName, int | None]:
    try:
        return parse_hook(name)
    except KeyError:
        raise ValueError(
            f"site {name!r} is none of {', '.join(_NAMES)}, nor a hook of TransformerLens"
        ) from None
