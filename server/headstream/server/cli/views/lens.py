"""A logit lens for the eye: a row for each layer with the tokens it holds likely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from headstream.server.cli.views.text import bar, percent, visible

if TYPE_CHECKING:
    from headstream.server.cli.lens import Prediction

_BAR_WIDTH = 8
_TOKEN_WIDTH = 16


def table(token: str, predictions: Sequence[tuple[int, Sequence[Prediction]]]) -> Table:
    """A row per layer: the likeliest tokens behind ``token``, and a bar for the first."""
    made = Table(box=None, header_style="dim", pad_edge=False)
    made.add_column("layer", justify="right", style="dim", no_wrap=True)
    made.add_column("", width=_BAR_WIDTH, no_wrap=True)
    made.add_column(f"behind {visible(token, _TOKEN_WIDTH)}")  # gives way where it is too wide
    for layer, found in predictions:
        made.add_row(
            str(layer) if layer else "embed",
            bar(math.exp(found[0].logprob), _BAR_WIDTH),
            Text("  ", no_wrap=True, overflow="ellipsis").join(
                Text(
                    f"{visible(each.token, _TOKEN_WIDTH)} {percent(math.exp(each.logprob))}",
                    "bold" if rank == 0 else "",
                )
                for rank, each in enumerate(found)
            ),
        )
    return made
