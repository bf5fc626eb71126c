"""TLS on both sides of a load balancer: with certificates a call gets through, and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from certificates import Pair, needs_openssl
from headstream.client import Client, Tls, Unavailable
from proxy_process import ProxyTls, running_proxy
from replicas import running_replicas
from server_process import save_tiny_model

pytestmark = [pytest.mark.slow, needs_openssl]


@pytest.mark.parametrize("kind", ["envoy", "haproxy"])
def test_a_call_through_two_handshakes(kind: str, tmp_path: Path) -> None:
    server, proxy, client = (Pair.make(tmp_path, name) for name in ("server", "proxy", "client"))
    tls = ProxyTls(proxy, server.cert, client.cert, proxy.trust(client))
    flags = [*server.flags, "--tls-client-ca", str(proxy.cert)]
    checkpoint = save_tiny_model(tmp_path / "tiny")
    with (
        running_replicas(checkpoint, 1, *flags) as replicas,
        running_proxy(kind, replicas, tmp_path, tls) as address,
    ):
        known = Tls(ca=proxy.cert, cert=client.cert, key=client.key)
        with Client(address.replace("127.0.0.1", "localhost"), tls=known) as through:
            vector = through.embed("a text")
        with Client(replicas[0].server.address, tls=Tls(server.cert, proxy.cert, proxy.key)) as own:
            assert np.array_equal(own.embed("a text"), vector)
        # Neither the proxy nor the server takes who shows nothing, or another's certificate.
        for where, shown in (
            (address, Tls(ca=proxy.cert)),
            (address, Tls(ca=proxy.cert, cert=server.cert, key=server.key)),
            (replicas[0].server.address, Tls(server.cert, client.cert, client.key)),
        ):
            with (
                Client(where, tls=shown, connect_timeout=2, timeout=5) as stranger,
                pytest.raises(Unavailable),
            ):
                stranger.embed("a text")
