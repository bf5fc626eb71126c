"""Everything that can be read inside a small model."""

from __future__ import annotations

from engine_trace import Trace
from headstream.model.sites import SiteName, SiteSpec

LAYERS = (1, 2, 3)


def every_site(trace: Trace) -> tuple[SiteSpec, ...]:
    """All sites, layers and heads of a model."""
    config = trace.runner.model.config
    queries, keys = tuple(range(config.n_heads)), tuple(range(config.n_kv_heads))
    heads: dict[SiteName, tuple[int, ...]] = {
        "resid_pre": (),
        "resid_mid": (),
        "resid_post": (),
        "q": queries,
        "k": keys,
        "v": keys,
        "attn_scores": queries,
        "pattern": queries,
        "z": queries,
        "attn_out": (),
        "mlp_post": (),
        "mlp_out": (),
    }
    sites = [SiteSpec("embed", (0,)), SiteSpec("ln_final", (3,))]
    if not config.rope:
        sites.append(SiteSpec("pos_embed", (0,)))
    return (*sites, *(SiteSpec(name, LAYERS, own) for name, own in heads.items()))
