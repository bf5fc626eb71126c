"""What a sequence shows of the inside of the model: what is asked for, and what comes."""

from __future__ import annotations

import msgspec

from headstream.model.sites import LensSpec, PatternSpec, SiteName, TraceSpec
from headstream.server.engine.frame import Frame


class Look(msgspec.Struct, frozen=True, array_like=True):
    """What a sequence shows of the inside of the model."""

    trace: TraceSpec | None = None
    attention: PatternSpec | None = None
    lens: LensSpec | None = None


class SiteValues(msgspec.Struct, frozen=True, array_like=True):
    """What stood at a site of some layers at the positions [start, start + n)."""

    site: SiteName
    layers: tuple[int, ...]  # ascending
    start: int
    # [layers, n, ...], with a head axis behind where the site has one. attn_scores and pattern are
    # [layers, n, heads, K]: K is the length of the prompt, or behind it all tokens up to the row
    values: Frame


class Pattern(msgspec.Struct, frozen=True, array_like=True):
    """Attention weights of consecutive queries among those asked for."""

    layer: int  # 0: a rollout
    queries: tuple[int, ...]  # positions
    # [heads or 1 if averaged, queries, tokens of the prompt], or the largest [.., top_k] of these;
    # keys that are not seen weigh 0
    weights: Frame
    keys: bytes = b""  # with top_k: int32 [heads, queries, top_k] positions


class LensRows(msgspec.Struct, frozen=True, array_like=True):
    """Logits of one layer at the positions [start, start + n)."""

    layer: int
    start: int
    logits: Frame  # [n, k] or [n, V]
    logits_ids: bytes = b""  # int32 [n, k] token ids of the logits, for top-k


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """What the inside of the model has shown."""

    sites: tuple[SiteValues, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    lens: tuple[LensRows, ...] = ()
