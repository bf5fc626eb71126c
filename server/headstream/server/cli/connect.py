# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""How the commands that talk to a server reach it, and how they tell that they could not."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from headstream.client import Client

Address: TypeAlias = Annotated[
    str, typer.Option("--address", "-a", envvar="HEADSTREAM_ADDRESS", help="Server, host:port.")
]
Ca: TypeAlias = Annotated[
    Path | None, typer.Option("--tls-ca", help="PEM file of authorities to trust; turns TLS on.")
]
Token: TypeAlias = Annotated[
    str | None, typer.Option("--token", envvar="HEADSTREAM_TOKEN", help="Bearer token.")
]
Model: TypeAlias = Annotated[
    str, typer.Option("--model", "-m", help="Name of the model; the server's first by default.")
]

DEFAULT_ADDRESS = "localhost:50051"


@contextmanager
def connected(address: str, ca: Path | None = None, token: str | None = None) -> Generator[Client]:
    """A client; its errors become one line on stderr and exit code 1."""
    from headstream.client import Client, HeadstreamError, Unavailable

    try:
        with Client(address, tls=ca or False, token=token, connect_timeout=5.0) as client:
            yield client
    except Unavailable as error:
        typer.echo(f"error: {error}", err=True)
        typer.echo("hint: start a server with `headstream serve`", err=True)
        raise typer.Exit(1) from None
    except (HeadstreamError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
