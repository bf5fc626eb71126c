"""The command line: `headstream serve`, `generate`, `embed`, `models`, `demo`."""

from __future__ import annotations

from headstream.server.cli.app import app


def main() -> None:
    """Entry point of the `headstream` command."""
    app(prog_name="headstream")
