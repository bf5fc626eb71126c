"""Servers that answer what a test says."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from headstream.client import Client
from scripted_server import Script, running_script, scripted_server


@pytest.fixture
def script() -> Iterator[Script]:
    """The script of a running server; its functions may be set at any time."""
    with running_script() as script:
        yield script


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    """A client of that server."""
    with Client(script.address, timeout=60, stream_timeout=60) as client:
        yield client


@pytest.fixture
def unstarted() -> Iterator[tuple[Script, grpc.Server]]:
    """A script and its server, which the test adds services to and starts."""
    script = Script()
    with scripted_server(script) as server:
        yield script, server
