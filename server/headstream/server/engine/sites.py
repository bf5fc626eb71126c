"""Which places inside a model can be read and changed, and whether a request fits them."""

from __future__ import annotations

from collections.abc import Iterable

from headstream.model.config import ModelConfig
from headstream.model.sites import Edit, SiteName, SiteSpec
from headstream.server.engine.look import Look

_QUERY_HEADS = ("q", "z", "attn_scores", "pattern")
_KEY_HEADS = ("k", "v")
_IN_FRONT = ("embed", "pos_embed")
PATTERN_SITES = ("attn_scores", "pattern")
_READ_ONLY = (*PATTERN_SITES, "pos_embed", "ln_final")


def compares(look: Look) -> bool:
    """Whether it asks for queries against keys."""
    trace = look.trace
    traced = trace is not None and any(site.name in PATTERN_SITES for site in trace.sites)
    return traced or look.attention is not None


def check_look(look: Look, config: ModelConfig, num_prompt: int) -> None:
    """Raises ValueError: the model has no such place, or the prompt no such query."""
    if look.trace is not None:
        for site in look.trace.sites:
            _check_site(site, config)
    if look.attention is not None:
        layers, heads = look.attention.layers, look.attention.heads
        if not look.attention.queries:
            raise ValueError("no queries are chosen")
        _check_range("queries", look.attention.queries, 0, num_prompt - 1)
        _check_site(SiteSpec("pattern", layers, heads), config)
    if look.lens is not None:
        _check_range("layers", look.lens.layers, 0, config.n_layers)


def check_edit(edit: Edit, config: ModelConfig) -> None:
    """Raises ValueError: the model has no such place, or the values are too many or too few."""
    if edit.site in _READ_ONLY:
        raise ValueError(f"site {edit.site!r} cannot be changed")
    _check_site(SiteSpec(edit.site, edit.layers, edit.heads), config)
    numbers = width_of(edit.site, config)
    if edit.kind == "set":
        if edit.end is None:
            raise ValueError("values can be set at the positions of a range that ends")
        positions = max(0, edit.end - edit.start)
        numbers *= len(edit.layers) * positions * max(1, len(edit.heads))
    elif edit.kind == "scale":
        numbers = 0
    if len(edit.values) != 4 * numbers:
        raise ValueError(f"{len(edit.values)} bytes for {numbers} values of site {edit.site!r}")


def width_of(site: SiteName, config: ModelConfig) -> int:
    """Numbers of a row of the site, or of a head of one."""
    if num_heads(site, config):
        return config.d_head
    return config.d_mlp if site == "mlp_post" else config.d_model


def num_heads(site: SiteName, config: ModelConfig) -> int:
    """Heads of the site; 0: it has none."""
    if site in _QUERY_HEADS:
        return config.n_heads
    return config.n_kv_heads if site in _KEY_HEADS else 0


def _check_site(site: SiteSpec, config: ModelConfig) -> None:
    if site.name == "pos_embed" and config.rope:
        raise ValueError("the model has no vectors of positions")
    last = config.n_layers
    if site.name in _IN_FRONT:
        _check_range("layers", site.layers, 0, 0)
    else:
        _check_range("layers", site.layers, last if site.name == "ln_final" else 1, last)
    _check_range("heads", site.heads, 0, num_heads(site.name, config) - 1)
    if num_heads(site.name, config) and not site.heads:
        raise ValueError(f"no heads of site {site.name!r} are chosen")


def _check_range(what: str, numbers: Iterable[int], first: int, last: int) -> None:
    for number in numbers:
        if not first <= number <= last:
            raise ValueError(f"{what}: {number} is not in [{first}, {last}]")
