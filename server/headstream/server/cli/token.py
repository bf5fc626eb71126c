# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream token new`: a token for a caller, and its entry for the server's file."""

from __future__ import annotations

from typing import Annotated

import typer

token = typer.Typer(help="Bearer tokens.", no_args_is_help=True)


@token.callback()
def _group() -> None:
    """Bearer tokens."""


@token.command()
def new(
    name: Annotated[str, typer.Option(help="Whose it is; stands in logs.")],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="A service it is for: logits, embeddings, internals, tokenizer, model, lookup or"
            " inference (the Open Inference Protocol); may be repeated. Default: all."
        ),
    ] = None,
    requests_per_second: Annotated[float | None, typer.Option(help="Calls begun.")] = None,
    requests_at_once: Annotated[int | None, typer.Option(help="Calls under way.")] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Tokens read and generated.")
    ] = None,
    max_priority: Annotated[
        str | None,
        typer.Option(help="batch, normal or high: what asks for more is served as this."),
    ] = None,
) -> None:
    """Make a token. Its entry goes to stdout, the token itself to stderr, this once."""
    from headstream.access.tokens import SCOPES, digest, new_token, parse_token, to_entry

    made = new_token()
    given = {
        "sha256": digest(made).hex(),
        "scopes": scope or list(SCOPES),
        "requests_per_second": requests_per_second,
        "requests_at_once": requests_at_once,
        "tokens_per_second": tokens_per_second,
        "max_priority": max_priority,
    }
    try:
        entry = parse_token(name, given)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(to_entry(entry), nl=False)
    typer.echo(f"token, shown this once: {made}", err=True)
