"""Whether a look or a change fits the model."""

from __future__ import annotations

from collections.abc import Iterable

from headstream.model.config import ModelConfig
from headstream.model.site_shapes import PATTERN_SITES, shape_of
from headstream.model.sites import Edit, SiteSpec
from headstream.server.engine.look import Look


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
        _check_range("queries", look.attention.queries, range(num_prompt))
        _check_site(SiteSpec("pattern", layers, heads), config)
    if look.lens is not None:
        _check_range("layers", look.lens.layers, range(config.n_layers + 1))


def check_edit(edit: Edit, config: ModelConfig) -> None:
    """Raises ValueError: the model has no such place, or the values are too many or too few."""
    shape = shape_of(edit.site, config)
    if not shape.changeable:
        raise ValueError(f"site {edit.site!r} cannot be changed")
    _check_site(SiteSpec(edit.site, edit.layers, edit.heads), config)
    numbers = shape.width
    if edit.kind == "set":
        if edit.end is None:
            raise ValueError("values can be set at the positions of a range that ends")
        positions = max(0, edit.end - edit.start)
        numbers *= len(edit.layers) * positions * max(1, len(edit.heads))
    elif edit.kind == "scale":
        numbers = 0
    if len(edit.values) != 4 * numbers:
        raise ValueError(f"{len(edit.values)} bytes for {numbers} values of site {edit.site!r}")


def _check_site(site: SiteSpec, config: ModelConfig) -> None:
    if site.name == "pos_embed" and config.rope:
        raise ValueError("the model has no vectors of positions")
    shape = shape_of(site.name, config)
    _check_range("layers", site.layers, shape.layers)
    _check_range("heads", site.heads, range(shape.heads))
    if shape.heads and not site.heads:
        raise ValueError(f"no heads of site {site.name!r} are chosen")


def _check_range(what: str, numbers: Iterable[int], allowed: range) -> None:
    for number in numbers:
        if number not in allowed:
            raise ValueError(f"{what}: {number} is not in [{allowed.start}, {allowed.stop - 1}]")
