# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream models`: what a server serves."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from headstream.server.cli.connect import DEFAULT_ADDRESS, Address, Ca, Token, connected


def models(
    *,
    address: Address = DEFAULT_ADDRESS,
    tls_ca: Ca = None,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List the models of a server, with their sizes and limits."""
    from rich.console import Console

    from headstream.server.cli.views import server as views

    with connected(address, tls_ca, token) as client:
        infos = client.models()
    if as_json:
        for info in infos:
            typer.echo(json.dumps(dataclasses.asdict(info)))
    else:
        Console(highlight=False).print(views.models(infos))
