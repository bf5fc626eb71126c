"""Servers that answer what a test says."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from scripted_server import Script, scripted_server


@pytest.fixture
def script() -> Iterator[Script]:
    """The script of a running server; its functions may be set at any time."""
    script = Script()
    with scripted_server(script) as server:
        server.start()
        yield script


@pytest.fixture
def unstarted() -> Iterator[tuple[Script, grpc.Server]]:
    """A script and its server, which the test adds services to and starts."""
    script = Script()
    with scripted_server(script) as server:
        yield script, server
