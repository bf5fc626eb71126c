# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream manifest`: the sha256 sums of a model, which `serve --manifests` checks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def manifest(
    source: Annotated[str, typer.Argument(help="Model, as for `serve --models`.")],
    *,
    cache_dir: Annotated[Path, typer.Option(help="Where converted weights are kept.")] = Path(
        "~/.cache/headstream"
    ),
) -> None:
    """Write the sha256 sums of a model's files to stdout."""
    from headstream.model.errors import ModelError
    from headstream.model.loading.manifest import make_manifest
    from headstream.model.loading.source import resolve

    try:
        typer.echo(make_manifest(resolve(source, cache_dir.expanduser())), nl=False)
    except (ModelError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
