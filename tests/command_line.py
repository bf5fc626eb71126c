"""The command line, called in this process."""

from typer.testing import CliRunner, Result

from headstream.server.cli.app import app


def run(*arguments: str) -> Result:
    """What ``headstream ARGUMENTS`` prints, and its exit code."""
    return CliRunner().invoke(app, list(arguments))
