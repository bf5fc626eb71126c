"""Named places inside the model, and what may be read or changed there: plain frozen values.

The names are TransformerLens's. Layers count from 1 to L; a place outside the layers has the layer
0 (``embed``, ``pos_embed``) or L (``ln_final``). With n rows, H query heads, G key/value heads:

    embed, pos_embed                    [n, d]     the terms of the first residual stream
    resid_pre, resid_mid, resid_post    [n, d]     the stream before, within and behind a layer
    q                                   [n, H, D]  as they are compared: normed and rotated
    k, v                                [n, G, D]
    attn_scores, pattern                [n, H, K]  before and after the softmax, over K keys
    z                                   [n, H, D]  attended values, before the output projection
    attn_out, mlp_out                   [n, d]     what a half adds to the stream
    mlp_post                            [n, f]     activated, and gated where there is a gate
    ln_final                            [n, d]     behind the final norm

What Gemma's halves add is normed first, and attn_out and mlp_out are behind these norms. BERT norms
the sum behind each half: resid_mid and resid_post are the stream as the next half reads it, normed,
and pos_embed has the vector of the token type in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal, get_args

from headstream.model.outputs import LogitsSpec, WireDtype

SiteName = Literal[
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


def site_names(*, learned_positions: bool) -> tuple[SiteName, ...]:
    """The places that a model has: vectors of positions only where it has learned some."""
    names: tuple[SiteName, ...] = get_args(SiteName)
    return tuple(name for name in names if learned_positions or name != "pos_embed")


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """A place to read."""

    name: SiteName
    layers: tuple[int, ...]  # ascending
    heads: tuple[int, ...] = ()  # ascending; empty: the site has no heads


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """Values to send of the positions [start, end), prompt and generated."""

    sites: tuple[SiteSpec, ...]
    start: int = 0
    end: int | None = None  # None: to the last that is computed
    dtype: WireDtype = "float32"


@dataclass(frozen=True, slots=True)
class PatternSpec:
    """Attention weights to send of queries of the prompt."""

    layers: tuple[int, ...]  # ascending, 1 to L
    heads: tuple[int, ...]  # ascending
    queries: tuple[int, ...]  # positions, ascending
    top_k: int = 0  # only the keys with the largest weights; 0: all
    average_heads: bool = False
    rollout: bool = False  # Abnar and Zuidema 2020 over the layers, heads averaged, instead of each
    dtype: WireDtype = "float32"


@dataclass(frozen=True, slots=True)
class LensSpec:
    """Logits to send of some layers of the stream, positions [start, end) of the prompt."""

    layers: tuple[int, ...]  # ascending, 0 to L
    start: int
    end: int
    logits: LogitsSpec


@dataclass(frozen=True, slots=True)
class Edit:
    """A change at one site, for the rows of one sequence alone, as they are computed.

    ``add``: ``values`` float32 [width] times ``factor`` is added to every row.
    ``scale``: the rows are multiplied by ``factor``.
    ``set``: ``values`` float32 [layers, end - start, width] take the place of the rows.

    The width is that of one head where the site has heads (times the heads chosen, for ``set``),
    otherwise that of a row. Sites: embed, resid_pre, resid_mid, resid_post, q, k, v, z, attn_out,
    mlp_post, mlp_out.
    """

    site: SiteName
    kind: Literal["add", "scale", "set"]
    layers: tuple[int, ...]  # ascending
    heads: tuple[int, ...] = ()  # ascending; empty: the site has no heads
    start: int = 0
    end: int | None = None  # None: every later position, generated ones too
    factor: float = 1.0
    values: bytes = b""
    values_digest: bytes = b""  # made here, unless whoever made it first has sent it along

    def __post_init__(self) -> None:
        """Hash the values once, however many sequences of a request have them."""
        if self.values and not self.values_digest:
            digest = hashlib.blake2b(self.values, digest_size=32).digest()
            object.__setattr__(self, "values_digest", digest)

    def with_values(self, values: bytes) -> Edit:
        """The same change with other values."""
        return replace(self, values=values, values_digest=b"")
