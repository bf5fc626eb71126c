"""Tokens made by the command, and how a call without a good one fails."""

from __future__ import annotations

from typing import Any

from google.rpc import error_details_pb2, status_pb2
from typer.testing import CliRunner

from headstream.server.cli.app import app


def make_token(name: str, *flags: str) -> tuple[str, str]:
    """A token, and its entry for the file."""
    done = CliRunner().invoke(app, ["token", "new", "--name", name, *flags])
    assert done.exit_code == 0, done.stderr
    return done.stderr.split()[-1], done.stdout


def explain(error: Any) -> tuple[str, str, float]:
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    wait = 0.0
    if "grpc-retry-pushback-ms" in trailers:
        assert status.details[1].Unpack(retry)
        wait = retry.retry_delay.ToTimedelta().total_seconds()
        assert wait == int(trailers["grpc-retry-pushback-ms"]) / 1000
    return error.code().name, info.reason, wait


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")
