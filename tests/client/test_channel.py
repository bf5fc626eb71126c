"""Balancing, health, addresses, tokens and TLS."""

import shutil
import subprocess
import time

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client_messages import vectors
from headstream.client import Client, Tls, Unavailable
from headstream.client import _channel as channel
from scripted_server import Script, scripted_server


def test_a_server_on_127_0_0_1_alone_is_found_by_the_name_localhost(script):
    script.embed = lambda request, context: vectors([1])
    with Client(f"localhost:{script.port}") as client:
        assert client.embed("a").tolist() == [1]


def test_an_address_of_a_list_that_nobody_serves_does_no_harm(script):
    """As where `localhost` means ::1 first: one address refuses, the other answers."""
    script.embed = lambda request, context: vectors([1])
    with Client(f"ipv4:127.0.0.1:1,127.0.0.1:{script.port}", connect_timeout=30) as client:
        assert client.embed("a").tolist() == [1]


def test_a_missing_server_is_told_within_the_connect_timeout():
    with Client("127.0.0.1:1", connect_timeout=0.3) as client:
        with pytest.raises(Unavailable, match=r"within 0\.3 s"):
            client.models()
        with pytest.raises(Unavailable):
            client.generate("a")


def embedded(client: Client) -> list[float]:
    """A vector, or nothing where no server is found."""
    try:
        return client.embed("a").tolist()
    except Unavailable:
        return []


def test_a_server_that_says_not_serving_is_not_used(unstarted):
    script, server = unstarted
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.start()
    script.embed = lambda request, context: vectors([1])
    with Client(script.address, connect_timeout=0.5) as client:
        with pytest.raises(Unavailable):
            client.embed("a")
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        deadline = time.monotonic() + 60
        while not (found := embedded(client)):
            assert time.monotonic() < deadline
        assert found == [1]


def test_a_token_travels_with_every_call_but_never_in_plaintext_over_the_network(script):
    script.embed = lambda request, context: vectors([1])
    with Client(script.address, token="secret") as client:
        client.embed("a")
    assert script.metadata[-1]["authorization"] == "Bearer secret"
    with pytest.raises(ValueError, match="needs tls"):
        Client("models.example:50051", token="secret")
    Client("models.example:50051", token="secret", tls=True).close()
    Client("models.example:50051", token="secret", token_in_plaintext=True).close()


def test_without_a_token_nothing_is_sent(script):
    script.embed = lambda request, context: vectors([1])
    with Client(script.address) as client:
        client.embed("a")
    assert "authorization" not in script.metadata[-1]


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("localhost:50051", True),
        ("127.0.0.1:50051", True),
        ("127.9.9.9", True),
        ("[::1]:50051", True),
        ("ipv4:127.0.0.1:50051", True),
        ("ipv6:[::1]:50051", True),
        ("dns:///localhost:50051", True),
        ("unix:/run/headstream.sock", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("127.0.0.1.example:50051", False),
        ("10.0.0.1:50051", False),
        ("[2001:db8::1]:50051", False),
        ("dns:///models.example:50051", False),
        ("localhost.example:50051", False),
    ],
)
def test_which_addresses_stay_on_this_machine(address, loopback):
    assert channel.is_loopback(address) is loopback


def test_certificates_are_read_when_the_client_is_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        Client("models.example:50051", tls=tmp_path / "missing.pem")
    with pytest.raises(FileNotFoundError):
        Client("models.example:50051", tls=Tls(cert=tmp_path / "missing.pem"))


def test_only_unary_methods_are_repeated_and_only_when_nothing_was_done():
    default, retried = channel.service_config()["methodConfig"]
    assert "retryPolicy" not in default
    assert retried["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert not {entry.get("method") for entry in retried["name"]} & {
        "Generate",
        "Score",
        "Decode",
        "EmbedTokens",
        "EmbedStream",
    }


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Paths of a certificate for 127.0.0.1, signed by itself, and of its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=headstream", "-keyout", key, "-out", cert]
    subprocess.run(
        [*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True
    )
    return cert, key


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_with_and_without_a_certificate_of_the_client(certificate, mutual):
    cert, key = certificate
    pair = (key.read_bytes(), cert.read_bytes())
    credentials = grpc.ssl_server_credentials(
        [pair], root_certificates=pair[1] if mutual else None, require_client_auth=mutual
    )
    script = Script(embed=lambda request, context: vectors([1]))
    with scripted_server(script, credentials) as server:
        server.start()
        tls = Tls(ca=cert, cert=cert, key=key) if mutual else str(cert)
        with Client(script.address, tls=tls, token="secret") as client:
            assert client.embed("a").tolist() == [1]
        assert script.metadata[-1]["authorization"] == "Bearer secret"
        with (
            Client(script.address, tls=True, connect_timeout=0.5) as stranger,
            pytest.raises(Unavailable),
        ):
            stranger.embed("a")
