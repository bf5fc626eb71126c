# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream demo`: a server with a small real model, and two things to see with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from headstream.client import Client, TokenEmbeddings

PROMPT = "So long and thanks for all the"
TIRED = "The chicken didn't cross the road because it was too tired"
WIDE = "The chicken didn't cross the road because it was too wide"
CROSSED = "The chicken didn't cross the road because it"
NOT_CROSSED = "The road was not crossed by the chicken because it"


def demo(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Another model: directory, GGUF file or hub id."),
    ] = None,
) -> None:
    """Start a server with a small real model, look at its logits and vectors, stop it."""
    from rich.console import Console

    from headstream.client import Client, HeadstreamError
    from headstream.server.cli.child import ServerFailedError, ServerProcess
    from headstream.server.cli.loading import LoadingDisplay
    from headstream.server.cli.views import demo as views

    console = Console(highlight=False)
    console.print(views.heading("Starting a server"))
    try:
        with ServerProcess(["--models", model] if model else []) as server:
            with LoadingDisplay(console) as display:
                address = server.wait_until_ready(display.update)
                display.finish()
            with Client(address) as client:
                console.print(views.served(client.model(), address))
                show_logits(console, client)
                show_vectors(console, client)
            console.print(views.stopped(server.stop()))
    except (ServerFailedError, HeadstreamError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    console.print(views.what_next(command()))


def command() -> str:
    """How this installation's command is called: by name, or by path where it is not found so."""
    import shutil
    import sys
    from pathlib import Path

    script = Path(sys.executable).with_name("headstream")
    found = shutil.which("headstream")
    if found is not None and Path(found).resolve() == script.resolve():
        return "headstream"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def show_logits(console: Console, client: Client) -> None:
    """The five likeliest next tokens of each step of a continuation."""
    from headstream.server.cli.generate import TokenNames, show
    from headstream.server.cli.views import demo as views

    console.print(views.logits_heading())
    generation = client.generate(
        PROMPT, max_new_tokens=6, logits="top", top_logits=5, logprobs=True
    )
    show(PROMPT, generation, TokenNames(client))


def show_vectors(console: Console, client: Client) -> None:
    """What `it` means: the same vector as long as what came before it is the same."""
    from headstream.server.cli.views import demo as views
    from headstream.server.cli.views import vectors

    layers = [*range(client.model().sizes.layers + 1), -1]
    tired, wide, crossed, not_crossed = (
        client.embed_tokens(text, layers=layers) for text in (TIRED, WIDE, CROSSED, NOT_CROSSED)
    )
    it = position(tired, "it")
    columns = {
        views.SAME_BEFORE: cosines(tired, it, wide, position(wide, "it")),
        views.OTHER_BEFORE: cosines(
            crossed, position(crossed, "it"), not_crossed, position(not_crossed, "it")
        ),
        views.LAST_WORD: cosines(tired, len(tired) - 1, wide, len(wide) - 1),
    }
    console.print(views.vectors_heading())
    console.print(vectors.cosines_by_layer(tired.layers, columns))
    console.print(views.explanation(columns[views.SAME_BEFORE]))


def position(embeddings: TokenEmbeddings, word: str) -> int:
    """Index of the last token that is a word, with or without the space before it.

    Raises:
        ServerFailedError: The model's tokenizer has no such token.
    """
    from headstream.server.cli.child import ServerFailedError

    for index in reversed(range(len(embeddings))):
        if embeddings.tokens[index].strip() == word:
            return index
    raise ServerFailedError(f"this model's tokenizer has no token for {word!r}")


def cosines(
    one: TokenEmbeddings, index: int, other: TokenEmbeddings, other_index: int
) -> list[float]:
    """The cosine of two tokens' vectors at each layer."""
    from headstream.server.cli.views.vectors import cosine

    pairs = zip(one.vectors[:, index], other.vectors[:, other_index], strict=True)
    return [cosine(a, b) for a, b in pairs]
