"""TLS files that are replaced under a running server: a real process, real connections."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import grpc
import pytest

from certificates import Pair, needs_openssl, shown_by
from headstream.v1 import model_service_pb2, model_service_pb2_grpc
from server_process import Server, running_server

pytestmark = needs_openssl


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def serve(tiny_model: Path, log: Path, *flags: str) -> Any:
    return running_server(tiny_model, *flags, "--reload-interval", "0.1", stderr=log)


def events(log: Path) -> list[dict[str, Any]]:
    lines = log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def told(log: Path, event: str) -> int:
    return sum(line["event"] == event for line in events(log))


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def ask(channel: grpc.Channel) -> str:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
    name: str = stub.GetModel(model_service_pb2.GetModelRequest(), timeout=10).model.name
    return name


def refused(server: Server, credentials: grpc.ChannelCredentials) -> bool:
    # Channels with equal options share their connections, and an open one asks nobody again.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(server.address, credentials, options) as channel:
        try:
            return ask(channel) != "tiny"
        except grpc.RpcError as error:
            failed: Any = error
            assert failed.code() is grpc.StatusCode.UNAVAILABLE
            return True


@pytest.fixture
def running(tiny_model: Path, tmp_path: Path, log: Path) -> Generator[tuple[Server, Pair]]:
    pair = Pair.make(tmp_path, "first")
    with serve(tiny_model, log, *pair.flags) as server:
        yield server, pair


def test_new_connections_see_the_new_certificate_and_old_ones_live_on(
    running: tuple[Server, Pair], tmp_path: Path, log: Path
) -> None:
    server, pair = running
    first, second = pair.cert.read_text(), Pair.make(tmp_path, "second")
    assert shown_by(server.address) == first
    with grpc.secure_channel(server.address, pair.trust()) as old:
        assert ask(old) == "tiny"
        stub: Any = old.unary_stream("/grpc.health.v1.Health/Watch")
        watching = stub(b"")
        next(watching)
        trusting_first = pair.trust()
        pair.replace(second)
        until(lambda: told(log, "changed files taken up") > 0)
        assert shown_by(server.address) == second.cert.read_text() != first
        assert ask(old) == "tiny"
        assert watching.is_active()
        watching.cancel()
    assert refused(server, trusting_first)
    assert not refused(server, second.trust())


def test_no_call_fails_while_certificates_change_again_and_again(
    running: tuple[Server, Pair], tmp_path: Path, log: Path
) -> None:
    server, pair = running
    others = [Pair.make(tmp_path, f"next-{number}") for number in range(3)]
    every = b"".join(each.cert.read_bytes() for each in (pair, *others))
    trust, results, stop = grpc.ssl_channel_credentials(every), list[bool](), threading.Event()

    def call_over_new_connections() -> None:
        while not stop.is_set():
            results.append(not refused(server, trust))

    thread = threading.Thread(target=call_over_new_connections)
    thread.start()
    try:
        for done, other in enumerate(others, 1):
            pair.replace(other)
            until(lambda other=other: shown_by(server.address) == other.cert.read_text())  # type: ignore[misc]
            until(lambda done=done: len(results) > 10 * done)  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
    assert all(results)
    assert len(results) > 30


@pytest.mark.parametrize("broken", ["cert", "key", "another's key"])
def test_broken_files_are_logged_and_the_old_ones_stay(
    running: tuple[Server, Pair], tmp_path: Path, log: Path, broken: str
) -> None:
    server, pair = running
    first, second = pair.cert.read_text(), Pair.make(tmp_path, "second")
    if broken == "another's key":
        pair.key.write_bytes(second.key.read_bytes())
    else:
        getattr(pair, broken).write_text("-----BEGIN NOTHING-----")
    until(lambda: told(log, "changed files kept out") > 0)
    time.sleep(0.5)
    [error] = [line for line in events(log) if line["event"] == "changed files kept out"]
    assert error["level"] == "error"
    assert str(pair.cert) in error["error"], "and it is told once, not at every look"
    assert "PRIVATE" not in log.read_text()
    assert shown_by(server.address) == first
    pair.replace(second)
    until(lambda: told(log, "changed files taken up") > 0)
    assert shown_by(server.address) == second.cert.read_text()


def test_the_authorities_of_clients_are_taken_up_too(
    tiny_model: Path, tmp_path: Path, log: Path
) -> None:
    pair, alice, bob = (Pair.make(tmp_path, name) for name in ("server", "alice", "bob"))
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(alice.cert.read_bytes())
    with serve(tiny_model, log, *pair.flags, "--tls-client-ca", str(authorities)) as server:
        assert not refused(server, pair.trust(alice))
        assert refused(server, pair.trust(bob))
        assert refused(server, pair.trust())
        authorities.write_bytes(bob.cert.read_bytes())
        until(lambda: told(log, "changed files taken up") > 0)
        assert refused(server, pair.trust(alice))
        assert not refused(server, pair.trust(bob))


def test_files_that_do_not_fit_are_named_at_the_start(tiny_model: Path, tmp_path: Path) -> None:
    pair, other, log = Pair.make(tmp_path, "a"), Pair.make(tmp_path, "b"), tmp_path / "log"
    flags = ["--tls-cert", str(pair.cert), "--tls-key", str(other.key)]
    with pytest.raises(AssertionError, match="did not start"), serve(tiny_model, log, *flags):
        pass
    assert f"{pair.cert} and {other.key} do not fit: key values mismatch" in log.read_text()


def test_without_new_files_nothing_is_taken_up(running: tuple[Server, Pair], log: Path) -> None:
    server, pair = running
    time.sleep(0.5)
    assert shown_by(server.address) == pair.cert.read_text()
    assert told(log, "changed files taken up") == told(log, "changed files kept out") == 0
