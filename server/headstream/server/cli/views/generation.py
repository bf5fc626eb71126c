"""A continuation as it comes: the likeliest next tokens of each step, and a last line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from headstream.server.cli.views.text import bar, percent, visible

if TYPE_CHECKING:
    from headstream.client import Timings, Usage

_BAR_WIDTH = 28
_TOKEN_WIDTH = 18


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could have come next."""

    token_id: int
    text: str
    probability: float
    chosen: bool


def step(index: int, candidates: list[Candidate]) -> Padding:
    """One step: a row per candidate with its probability as a bar, the chosen one marked."""
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", width=4, style="dim")
    table.add_column(width=1, style="green")
    table.add_column(width=_TOKEN_WIDTH, no_wrap=True)
    table.add_column(width=_BAR_WIDTH)
    table.add_column(justify="right", width=6)
    for row, candidate in enumerate(candidates):
        strong = candidate.chosen
        table.add_row(
            str(index) if row == 0 else "",
            ">" if strong else "",
            Text(visible(candidate.text, _TOKEN_WIDTH), style="bold green" if strong else ""),
            bar(candidate.probability, _BAR_WIDTH, "green" if strong else "cyan"),
            Text(percent(candidate.probability), style="bold" if strong else "dim"),
        )
    return Padding(table, (0, 0, 1, 0))


def heading(index: int, seed: int | None) -> Text:
    """Before one continuation of several."""
    return Text(f"{index} (seed {seed})", style="dim")


def prompt_and_text(prompt: str, text: str) -> Text:
    """A prompt and its continuation, told apart by colour."""
    return Text.assemble((prompt, "dim"), (text, "bold green"))


def summary(usage: Usage, timings: Timings, finish_reason: str) -> Text:
    """The last line: how much, how fast on the server, why it ended."""
    seconds = timings.compute_ns / 1e9
    parts = [f"{usage.input_tokens} tokens in", f"{usage.output_tokens} out"]
    if usage.output_tokens > 1 and seconds > 0:
        parts.append(f"{usage.output_tokens / seconds:.1f} tokens/s")
    parts += [f"first after {timings.first_output_ns / 1e6:.0f} ms", f"ended by {finish_reason}"]
    return Text(", ".join(parts), style="dim")
