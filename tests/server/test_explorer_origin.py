from __future__ import annotations

import pytest

from headstream.server.explorer.origin import why_refused
from headstream.server.http import Request


@pytest.mark.parametrize(
    ("address", "host", "taken"),
    [
        ("127.0.0.1", "127.0.0.1:9090", True),
        ("127.0.0.1", "localhost:9090", True),
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "[::1]:9090", True),
        ("127.0.0.1", "192.0.2.1:9090", False),
        ("127.0.0.1", "localhost.example", False),
        ("192.0.2.1", "192.0.2.1:9090", True),
        ("192.0.2.1", "192.0.2.2:9090", False),
        ("models.example", "models.example:9090", True),
        ("0.0.0.0", "192.0.2.2:9090", True),
        ("0.0.0.0", "rebound.example:9090", False),
        ("::", "[2001:db8::1]:9090", True),
        ("::", "", False),
        ("Models.example", "models.example:9090", True),
        ("127.0.0.1", "localhost:9090.rebound.example", False),
        ("127.0.0.1", "[::1]rebound.example", False),
    ],
)
def test_host_is_loopback_or_the_address(address: str, host: str, taken: bool) -> None:
    request = Request("GET", "/explorer/", {"host": host})
    assert (why_refused(request, address) is None) is taken


@pytest.mark.parametrize("first", ["localhost", "localhost:9090", "[::1]:9090"])
def test_a_host_that_comes_twice_is_refused(first: str) -> None:
    request = Request("GET", "/explorer/", {"host": f"{first}, rebound.example"})
    assert why_refused(request, "127.0.0.1") is not None
