"""The words of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from headstream.server.cli.views.text import count

if TYPE_CHECKING:
    from headstream.client import ModelInfo

SAME_BEFORE = "it: tired / wide"
OTHER_BEFORE = "it: chicken / road first"
LAST_WORD = "tired / wide"

_SESSION = """\
from headstream.client import Client
with Client("localhost:50051") as client:
    for step in client.generate("So long and thanks", logits="full"):
        print(step.text, step.logits.shape)"""


def heading(text: str) -> Padding:
    """A line that begins a part."""
    return Padding(Text(text, style="bold"), (1, 0, 1, 0))


def served(model: ModelInfo, address: str) -> Text:
    """What runs, and where."""
    return Text.assemble(
        "Serving ",
        (model.name, "bold green"),
        f" ({count(model.sizes.parameters)} parameters, {model.sizes.layers} layers) on {address}",
    )


def logits_heading() -> Group:
    """Before the continuation."""
    return Group(
        heading("1. Next-token logits"),
        Text(
            "Each step turns the last row of the residual stream into one logit per token of the "
            "vocabulary. The five largest, as probabilities:"
        ),
    )


def vectors_heading() -> Group:
    """Before the table of cosines."""
    return Group(
        heading("2. Contextual embeddings"),
        Text('What does "it" mean?'),
        Padding(
            Text(
                "The chicken didn't cross the road because it was too tired.\n"
                "The chicken didn't cross the road because it was too wide.",
                style="italic",
            ),
            (0, 0, 0, 2),
        ),
        Padding(
            Text(
                "The cosine of two vectors at every layer: of it in these two sentences; of it in\n"
                '"The chicken didn\'t cross the road because it" and "The road was not crossed by\n'
                'the chicken because it"; and of the last words, tired and wide.'
            ),
            (1, 0),
        ),
    )


def explanation(same_before: Sequence[float]) -> Padding:
    """Why the first column is what it is.

    Args:
        same_before: Its cosines.
    """
    if min(same_before) > 0.9999:
        words = (
            'Nothing before "it" differs between tired and wide, and a causal model cannot look '
            'ahead: it gives "it" the very same vector in both, at every layer. Where the words '
            "before it differ, so do the vectors, although the token is the same."
        )
    else:
        words = (
            'This model reads in both directions: what comes after "it" changes its vector too, '
            "so tired and wide already make a difference there."
        )
    return Padding(Text(words), (1, 0))


def stopped(exit_code: int) -> Text:
    """After the server has ended."""
    how = "cleanly" if exit_code == 0 else f"with exit code {exit_code}"
    return Text(f"The server has stopped {how}.", style="dim")


def what_next(command: str) -> Group:
    """What the reader can do now.

    Args:
        command: How the `headstream` command is called from the reader's shell.
    """
    return Group(
        heading("What next"),
        Text.assemble("Start a server of your own:  ", ("make serve", "bold")),
        Text("Then, in Python:"),
        Padding(Syntax(_SESSION, "python", theme="ansi_dark", background_color="default"), (1, 4)),
        Text.assemble(
            "Or in another terminal:  ",
            (f'{command} generate "So long and thanks for all the" --logits 5', "bold"),
        ),
    )
