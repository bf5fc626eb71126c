# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream attention`: which tokens each token of a text looks at."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from headstream.server.cli.connect import DEFAULT_ADDRESS, Address, Ca, Model, Token, connected

if TYPE_CHECKING:
    from headstream.client import AttentionWeights


def attention(
    text: Annotated[str, typer.Argument(help="Text to read.")],
    *,
    layer: Annotated[int, typer.Option("--layer", "-l", min=1, help="Layer, 1 to L.")],
    head: Annotated[
        int | None, typer.Option("--head", min=0, help="Head, from 0; the mean of all by default.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Tokens looked at most, of each.")] = 3,
    address: Address = DEFAULT_ADDRESS,
    model: Model = "",
    tls_ca: Ca = None,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per token.")] = False,
) -> None:
    """Show which tokens each token of a text looks at, in one layer."""
    with connected(address, tls_ca, token) as client:
        seen = client.attention(
            text,
            layers=[layer],
            heads=[] if head is None else [head],
            average_heads=head is None,
            top_k=top_k,
            model=model,
        )
    if as_json:
        _write_json(seen)
    else:
        from rich.console import Console

        from headstream.server.cli.views import attention as views

        Console(highlight=False).print(views.table(seen))


def _write_json(seen: AttentionWeights) -> None:
    assert seen.keys is not None, "the largest were asked for"
    for query, weights, keys in zip(seen.queries, seen.weights[0, 0], seen.keys[0, 0], strict=True):
        line = {
            "token": seen.tokens[query],
            "looks_at": [
                {"position": int(key), "token": seen.tokens[int(key)], "weight": float(weight)}
                for key, weight in zip(keys, weights, strict=True)
            ],
        }
        typer.echo(json.dumps(line, ensure_ascii=False))
