"""What stood at places inside the model while it read a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstream.client._results import Array, Fingerprint, Timings, TokenTable, Usage
from headstream.client._sites import hook_name, parse_hook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstream.client._sites import SiteName


@dataclass(frozen=True, slots=True, eq=False)
class TracedToken:
    """A generated token, with what stood at the places when the model read it."""

    position: int
    token_id: int
    # place and layer -> one row, [..]; none for a token that the model did not read any more
    values: Mapping[tuple[SiteName, int], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Trace(TokenTable):
    """The tokens of one text, and what stood at places inside the model.

    `trace["blocks.3.hook_resid_post"]` has TransformerLens's names, whose layers count from 0;
    `trace.values("resid_post", 4)` is the same. Rows stand for the positions from `start` on, with
    n the number of them, H heads (those chosen), D the width of a head, and K keys:

        embed, pos_embed, resid_pre, resid_mid, resid_post, attn_out, mlp_out, ln_final   [n, d]
        q, k, v, z                                                                        [n, H, D]
        attn_scores, pattern                                                              [n, H, K]
        mlp_post                                                                          [n, f]
    """

    generated_ids: list[int]  # tokens generated behind the text
    start: int  # position of the first row
    rows: Mapping[tuple[SiteName, int], Array]  # place and layer -> values
    rotary: bool  # q and k are rotated by their positions
    usage: Usage
    timings: Timings
    fingerprint: Fingerprint
    request_id: str

    def values(self, site: SiteName, layer: int | None = None) -> Array:
        """What stood at a place in a layer, 1 to L; no layer for a place that is in none.

        Raises:
            KeyError: It was not asked for.
        """
        found = [key for key in self.rows if key[0] == site and layer in {None, key[1]}]
        if len(found) != 1:
            raise KeyError((site, layer))
        return self.rows[found[0]]

    def __getitem__(self, hook: str) -> Array:
        """The same, by TransformerLens's name.

        Raises:
            KeyError: It was not asked for, or there is no such hook.
        """
        site, layer = parse_hook(hook)
        return self.values(site, layer)

    def to_transformer_lens(self) -> dict[str, Array]:
        """All values as the `ActivationCache` of a `HookedTransformer` of TransformerLens has them.

        Returns:
            Hook name -> [1, n, ..]; `hook_pattern` and `hook_attn_scores` [1, H, n, K]. Rotated q
            and k are `hook_rot_q` and `hook_rot_k`, as there; what the last norm gives is
            `ln_final.hook_out`, as its `TransformerBridge` has it.
        """
        return {
            hook_name(site, layer, rotary=self.rotary): (
                values.swapaxes(0, 1) if site in {"attn_scores", "pattern"} else values
            )[np.newaxis]
            for (site, layer), values in self.rows.items()
        }
