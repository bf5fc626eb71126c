"""A scored text for the eye: its tokens with how likely they were, and a last line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from headstream.server.cli.views.text import bar, percent, visible

if TYPE_CHECKING:
    from headstream.client import TextScores

_BAR_WIDTH = 12
_TOKEN_WIDTH = 16


def table(scores: TextScores, tokens: list[str]) -> Table:
    """A row per token; the first has no score.

    Args:
        scores: Of n tokens.
        tokens: Their n texts.
    """
    made = Table(box=None, header_style="dim", pad_edge=False)
    made.add_column("#", justify="right", style="dim")
    made.add_column("token", no_wrap=True)
    for title in ("id", "logprob", "rank", "entropy", "prob."):
        made.add_column(title, justify="right")
    made.add_column("", width=_BAR_WIDTH)
    made.add_row("0", Text(visible(tokens[0], _TOKEN_WIDTH), "dim"), str(scores.token_ids[0]))
    for index, token in enumerate(tokens[1:]):
        share = math.exp(scores.logprobs[index])
        made.add_row(
            str(index + 1),
            Text(visible(token, _TOKEN_WIDTH), "bold"),
            str(scores.token_ids[index + 1]),
            f"{scores.logprobs[index]:.4f}",
            str(scores.ranks[index]),
            f"{scores.entropies[index]:.3f}",
            percent(share),
            bar(share, _BAR_WIDTH),
        )
    return made


def summary(scores: TextScores) -> Text:
    """The last line: the totals."""
    parts = [
        f"{len(scores)} tokens",
        f"log-probability {scores.total_logprob:.4f}",
        f"perplexity {scores.perplexity:.4f}",
    ]
    return Text(", ".join(parts), style="dim")
