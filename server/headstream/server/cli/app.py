"""The commands by name. Each imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import typer

from headstream.server.cli.attention import attention
from headstream.server.cli.demo import demo
from headstream.server.cli.embed import embed
from headstream.server.cli.generate import generate
from headstream.server.cli.lens import lens
from headstream.server.cli.lookup import lookup
from headstream.server.cli.models import models
from headstream.server.cli.score import score
from headstream.server.cli.serve import serve

app = typer.Typer(
    help="Next-token logits and contextual embeddings from a transformer, over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(demo)
app.command(
    # The flags are the settings themselves, read and explained in one place: config.py.
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)(serve)
app.command()(generate)
app.command()(embed)
app.command()(score)
app.command()(attention)
app.command()(lens)
app.command()(models)
app.add_typer(lookup, name="lookup")
