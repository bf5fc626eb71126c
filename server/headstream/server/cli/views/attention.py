"""Attention for the eye: each token with those that it looks at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from headstream.server.cli.views.text import bar, percent, visible

if TYPE_CHECKING:
    from headstream.client import AttentionWeights

_BAR_WIDTH = 8
_TOKEN_WIDTH = 16


def table(seen: AttentionWeights) -> Table:
    """A row per token: the tokens it looks at, largest weight first, and a bar for the first.

    ``seen``: of one layer, and of one head or their mean, with the largest keys alone.
    """
    assert seen.keys is not None, "the largest were asked for"
    made = Table(box=None, header_style="dim", pad_edge=False)
    made.add_column("#", justify="right", style="dim", no_wrap=True)
    made.add_column("token", no_wrap=True)
    made.add_column("", width=_BAR_WIDTH, no_wrap=True)
    made.add_column("looks at")  # gives way where it is too wide
    for query, weights, keys in zip(seen.queries, seen.weights[0, 0], seen.keys[0, 0], strict=True):
        made.add_row(
            str(query),
            Text(visible(seen.tokens[query], _TOKEN_WIDTH), "bold"),
            bar(float(weights[0]), _BAR_WIDTH),
            Text(
                "  ".join(
                    f"{visible(seen.tokens[int(key)], _TOKEN_WIDTH)} {percent(float(weight))}"
                    for key, weight in zip(keys, weights, strict=True)
                    if weight > 0  # the first tokens see fewer than were asked for
                ),
                no_wrap=True,
                overflow="ellipsis",
            ),
        )
    return made
