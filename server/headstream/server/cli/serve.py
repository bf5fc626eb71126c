# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream serve`: the terminal of a server. The work is done by the front."""

from __future__ import annotations

import io
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, TextIO, cast

import typer

_HELP = """\
Serve models over gRPC until Ctrl-C or SIGTERM.

  --config FILE         YAML file of settings
  --events              Tell of loading and readiness in JSON lines on stdout, for programs

The settings below are flags, HEADSTREAM_* variables and keys of the file alike.
"""

_KEPT_BYTES = 256 << 20  # of freed messages: tens of full logit rows under way


def serve(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    *,
    events: Annotated[bool, typer.Option("--events", help="JSON lines, for programs.")] = False,
) -> None:
    """Serve models over gRPC. All settings are flags: `headstream serve --help`."""
    if {"--help", "-h"} & set(context.args):
        typer.echo(_HELP)
    # Before gRPC is loaded: it would tell the log that it leaves alone the start of an engine.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import uvloop

    from headstream.model.allocator import tune_allocator
    from headstream.server.cli.watch import EventWatcher, TerminalWatcher
    from headstream.server.config_sources import load_settings
    from headstream.server.errors import ConfigError, EngineStartError
    from headstream.server.logs import configure_logs
    from headstream.server.process import serve as serve_front

    tune_allocator(_KEPT_BYTES)
    try:
        settings = load_settings(context.args, config)
        configure_logs(settings, cast("TextIO", _CurrentStderr()))
        with closing(EventWatcher() if events else TerminalWatcher(settings)) as watcher:
            uvloop.run(serve_front(settings, watcher.on_progress, watcher.on_ready))
    except (ConfigError, EngineStartError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None


class _CurrentStderr(io.TextIOBase):
    """What `sys.stderr` is at the moment: while bars are shown, a stream that writes above them."""

    def write(self, text: str, /) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()
