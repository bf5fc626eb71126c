"""TLS files and tokens of the lookup service: a real process, real connections."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner

from certificates import Pair, needs_openssl, shown_by
from headstream.server.cli.app import app
from headstream.v1 import lookup_service_pb2 as pb
from headstream.v1 import lookup_service_pb2_grpc
from lookup_process import Lookup, lookup_command, running_lookup
from server_process import Server, running_server
from tokens_of_callers import bearer, explain, make_token

pytestmark = needs_openssl


@dataclass
class Guarded:
    """A service with TLS that asks for tokens."""

    lookup: Lookup
    pair: Pair
    log: Path
    alice: str  # for the lookup, two calls a second
    bob: str  # for other services

    @property
    def channel(self) -> grpc.Channel:
        return grpc.secure_channel(self.lookup.address, self.pair.trust())

    def lines(self, event: str) -> list[dict[str, Any]]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [each for each in map(json.loads, lines) if each["event"] == event]


@pytest.fixture(scope="module")
def guarded(minilm: Server, tmp_path_factory: pytest.TempPathFactory) -> Generator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    pair, file, log = Pair.make(folder, "lookup"), folder / "tokens.toml", folder / "log"
    alice, first = make_token("alice", "--scope", "lookup", "--requests-per-second", "2")
    bob, second = make_token("bob", "--scope", "embeddings")
    file.write_text(first + second)
    flags = [*pair.flags, "--tokens", str(file), "--reload-interval", "0.1"]
    with running_lookup(minilm.address, folder / "store", *flags, stderr=log) as lookup:
        yield Guarded(lookup, pair, log, alice, bob)


def stats(guarded: Guarded, *metadata: tuple[str, str]) -> tuple[str, str, float]:
    """Code, reason and seconds to wait."""
    with guarded.channel as channel:
        stub: Any = lookup_service_pb2_grpc.LookupServiceStub(channel)
        try:
            stub.GetStats(pb.GetStatsRequest(), metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            return explain(error)
        return "OK", "", 0.0


def test_tokens_scopes_and_quotas(guarded: Guarded) -> None:
    assert stats(guarded)[:2] == ("UNAUTHENTICATED", "NO_TOKEN")
    assert stats(guarded, bearer("hs_wrong"))[:2] == ("UNAUTHENTICATED", "UNKNOWN_TOKEN")
    assert stats(guarded, bearer(guarded.bob))[:2] == ("PERMISSION_DENIED", "SCOPE_MISSING")
    assert stats(guarded, bearer(guarded.alice))[0] == "OK"
    results = [stats(guarded, bearer(guarded.alice)) for _ in range(8)]
    code, reason, wait = next(result for result in results if result[0] != "OK")
    assert (code, reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    assert 0 < wait <= 0.5
    time.sleep(0.2)
    told = {(each["tenant"], each["code"], each["reason"]) for each in guarded.lines("call")}
    assert told == {
        ("", "UNAUTHENTICATED", "NO_TOKEN"),
        ("", "UNAUTHENTICATED", "UNKNOWN_TOKEN"),
        ("bob", "PERMISSION_DENIED", "SCOPE_MISSING"),
        ("alice", "OK", "OK"),
        ("alice", "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
    }
    assert "hs_" not in guarded.log.read_text()


def test_health_asks_for_no_token_and_reflection_for_any(guarded: Guarded) -> None:
    with guarded.channel as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        check = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([asked]), metadata=[bearer(guarded.bob)], timeout=10)
        assert len(next(call).list_services_response.service) == 3
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.ServerReflectionInfo(iter([asked]), timeout=10))
        assert explain(caught.value)[:2] == ("UNAUTHENTICATED", "NO_TOKEN")


def test_a_new_certificate_is_taken_up(guarded: Guarded, tmp_path: Path) -> None:
    first, second = guarded.pair.cert.read_text(), Pair.make(tmp_path, "second")
    assert shown_by(guarded.lookup.address) == first
    guarded.pair.replace(second)
    deadline = time.monotonic() + 20
    while not guarded.lines("changed files taken up"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert shown_by(guarded.lookup.address) == second.cert.read_text() != first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "--insecure if the network is trusted"),
        (["--tokens", "/no/such.toml"], "/no/such.toml: No such file"),
        (["--tls-cert", "/no/a.pem", "--tls-key", "/no/a.key"], "/no/a.key: No such file"),
        (["--tls-client-ca", "a.pem"], "needs --tls-cert"),
    ],
)
def test_mistakes_are_named(minilm: Server, tmp_path: Path, flags: list[str], message: str) -> None:
    command = lookup_command(minilm.address, tmp_path, *flags)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--address", "models.example:1", "--token", "hs_x"], "models.example:1 needs tls"),
        (["--address", "127.0.0.1:1", "--tls-ca", "/no/ca.pem"], "/no/ca.pem"),
    ],
)
def test_a_server_that_cannot_be_asked_is_named(
    tmp_path: Path, flags: list[str], message: str
) -> None:
    done = CliRunner().invoke(app, ["lookup", "serve", "--store", str(tmp_path / "store"), *flags])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_reflection_can_be_left_out(minilm: Server, tmp_path: Path) -> None:
    with running_lookup(minilm.address, tmp_path, "--no-reflection") as lookup:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(lookup.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.ServerReflectionInfo(iter([asked]), timeout=10))
        failed: Any = caught.value
        assert failed.code() is grpc.StatusCode.UNIMPLEMENTED


def test_its_own_token_for_the_server_needs_three_scopes(tmp_path: Path) -> None:
    scopes = ["--scope", "embeddings", "--scope", "tokenizer", "--scope", "model"]
    (enough, first), (too_little, second) = make_token("a", *scopes), make_token("b", *scopes[:4])
    file = tmp_path / "tokens.toml"
    file.write_text(first + second)
    flags = ["--dtype", "float32", "--tokens", str(file)]
    with running_server(Path("all-minilm-l6-v2"), *flags, stderr=tmp_path / "log") as server:
        store = tmp_path / "store"
        with running_lookup(server.address, store, "--token", enough) as lookup:
            assert list(lookup.add({"a": "A text."}).outcomes)
            assert [hit.document_id for hit in lookup.search("A text.")] == ["a"]
        command = lookup_command(server.address, store, "--token", too_little)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1
        assert "scope: the token does not have 'model'" in done.stderr
