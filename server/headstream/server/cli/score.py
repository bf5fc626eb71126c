# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream score`: how likely each token of a text is, and its perplexity."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstream.server.cli.connect import DEFAULT_ADDRESS, Address, Ca, Model, Token, connected

if TYPE_CHECKING:
    from headstream.client import PriorityName, TextScores


def score(
    text: Annotated[str | None, typer.Argument(help="Text to score.")] = None,
    *,
    address: Address = DEFAULT_ADDRESS,
    model: Model = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the text from a file; -: from stdin.")
    ] = None,
    window_stride: Annotated[
        int | None,
        typer.Option(help="Tokens that each further window scores anew, for long texts."),
    ] = None,
    tls_ca: Ca = None,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per token.")] = False,
) -> None:
    """Show how likely each token of a text is, given those before it."""
    if (text is None) == (file is None):
        raise typer.BadParameter("give a text or --file")
    with connected(address, tls_ca, token) as client:
        whole = text if text is not None else _read(file)
        priority: PriorityName = "batch" if file else "normal"
        scores = client.score(whole, model=model, window_stride=window_stride, priority=priority)
        tokens = client.tokenize(whole, model=model).tokens
    if as_json:
        _write_json(scores, tokens)
    else:
        from rich.console import Console

        from headstream.server.cli.views import scores as views

        Console(highlight=False).print(views.table(scores, tokens))
        Console(stderr=True, highlight=False).print(views.summary(scores))


def _read(file: Path | None) -> str:
    if file is None or str(file) == "-":
        return sys.stdin.read()
    return file.read_text(encoding="utf-8")


def _write_json(scores: TextScores, tokens: list[str]) -> None:
    """A line per scored token, and a last one for the whole."""
    for index, token in enumerate(tokens[1:]):
        line = {
            "token": token,
            "token_id": int(scores.token_ids[index + 1]),
            "logprob": float(scores.logprobs[index]),
            "rank": int(scores.ranks[index]),
            "entropy": float(scores.entropies[index]),
        }
        typer.echo(json.dumps(line, ensure_ascii=False))
    whole = {
        "tokens": len(scores),
        "total_logprob": scores.total_logprob,
        "perplexity": scores.perplexity,
        "request_id": scores.request_id,
    }
    typer.echo(json.dumps(whole, ensure_ascii=False))
