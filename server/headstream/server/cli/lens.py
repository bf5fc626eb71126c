# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream lens`: what each layer would predict behind a text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from headstream.server.cli.connect import DEFAULT_ADDRESS, Address, Ca, Model, Token, connected
from headstream.server.cli.generate import TokenNames

if TYPE_CHECKING:
    from headstream.client import LogitLens

_SHOWN = 4


class Prediction(NamedTuple):
    """A token that a layer holds likely."""

    token: str
    token_id: int
    logprob: float


def lens(
    text: Annotated[str, typer.Argument(help="Text to read.")],
    *,
    position: Annotated[
        int | None,
        typer.Option("--position", "-p", min=0, help="Token behind which; the last by default."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Likeliest tokens of each layer.")] = _SHOWN,
    address: Address = DEFAULT_ADDRESS,
    model: Model = "",
    tls_ca: Ca = None,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per layer.")] = False,
) -> None:
    """Show what the model would predict if it ended behind each of its layers."""
    with connected(address, tls_ca, token) as client:
        if position is None:
            position = len(client.tokenize(text, model=model)) - 1
        seen = client.logit_lens(
            text,
            positions=(position, position + 1),
            top_logits=top_k,
            logprobs=True,
            model=model,
        )
        names = TokenNames(client, model)
        predictions = _predictions(seen, names)
    if as_json:
        _write_json(predictions)
    else:
        from rich.console import Console

        from headstream.server.cli.views import lens as views

        Console(highlight=False).print(views.table(seen.tokens[position], predictions))


def _predictions(seen: LogitLens, names: TokenNames) -> list[tuple[int, list[Prediction]]]:
    """Each layer with its likeliest tokens at the one position, likeliest first."""
    from headstream.client import TopLogits

    assert isinstance(seen.logits, TopLogits), "they were asked for"
    ids, values = seen.logits.token_ids[:, 0], seen.logits.values[:, 0]  # [layers, k]
    return [
        (
            layer,
            [
                Prediction(names[int(token_id)], int(token_id), float(logprob))
                for token_id, logprob in zip(ids[row], values[row], strict=True)
            ],
        )
        for row, layer in enumerate(seen.layers)
    ]


def _write_json(predictions: list[tuple[int, list[Prediction]]]) -> None:
    for layer, found in predictions:
        line = {"layer": layer, "predicts": [each._asdict() for each in found]}
        typer.echo(json.dumps(line, ensure_ascii=False))
