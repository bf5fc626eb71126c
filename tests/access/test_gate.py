"""Tokens against a real server process: who is let in, who is refused how, what is logged."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner

from certificates import Pair, needs_openssl
from headstream.access.gate import Gate, scope_of
from headstream.access.refusal import Refusal
from headstream.access.tokens import SCOPES
from headstream.client import (
    Client,
    PermissionDenied,
    ResourceExhausted,
    Tls,
    Unauthenticated,
)
from headstream.open_inference import inference_pb2
from headstream.server.cli.app import app
from headstream.server.config import Settings
from headstream.server.listener import capabilities
from server_process import Server, running_server
from tokens_of_callers import bearer, explain, make_token

Code = grpc.StatusCode


@dataclass
class Guarded:
    """A server that asks for tokens."""

    server: Server
    file: Path
    log: Path
    alice: str  # for everything
    bob: str  # for embeddings and the tokenizer
    carol: str  # two calls a second

    @property
    def address(self) -> str:
        return self.server.address

    def calls(self) -> list[dict[str, Any]]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == "call"]

    def wait_for_call(self, **fields: str) -> dict[str, Any]:
        """The line of a call, which may be written a little after its answer."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for call in self.calls():
                if fields.items() <= call.items():
                    return call
            time.sleep(0.02)
        raise AssertionError(f"no such call was logged: {fields}")


@pytest.fixture(scope="module")
def guarded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Guarded]:
    folder = tmp_path_factory.mktemp("tokens")
    file, log = folder / "tokens.toml", folder / "log"
    alice, first = make_token("alice")
    bob, second = make_token("bob", "--scope", "embeddings", "--scope", "tokenizer")
    carol, third = make_token("carol", "--requests-per-second", "2")
    file.write_text(first + second + third)
    flags = ["--tokens", str(file), "--reload-interval", "0.1", "--open-inference"]
    with running_server(tiny_model, *flags, stderr=log) as server:
        yield Guarded(server, file, log, alice, bob, carol)


OPEN_INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
METHODS = [
    *(method for method, _ in capabilities(Settings())),
    *(f"{OPEN_INFERENCE.full_name}/{method.name}" for method in OPEN_INFERENCE.methods),
]


def call(guarded: Guarded, method: str, *metadata: tuple[str, str]) -> tuple[str, str, float]:
    """Code, reason and seconds to wait of any method, sent an empty message."""
    raw: Any = guarded.server.channel.stream_stream(f"/{method}")
    try:
        list(raw(iter([b""]), metadata=metadata, timeout=20))
    except grpc.RpcError as error:
        return explain(error)
    return "OK", "", 0.0


def test_every_service_of_the_contract_has_its_scope() -> None:
    assert {scope_of(f"/{method}") for method in METHODS} == {*SCOPES} - {"lookup"}
    assert scope_of("/headstream.v1.LookupService/Search") == "lookup"
    assert scope_of("/headstream.v1.AnotherService/Do") == "another", "which no token can have"


def test_a_quota_is_the_tokens_whatever_services_it_asks(tmp_path: Path) -> None:
    token, entry = make_token("alice", "--requests-at-once", "1")
    (tmp_path / "tokens.toml").write_text(entry)
    gate = Gate(tmp_path / "tokens.toml", retry_after_s=1.0)
    logits, embeddings = (f"/headstream.v1.{name}Service/Do" for name in ("Logits", "Embeddings"))
    grant = gate.admit(logits, [bearer(token)])
    with pytest.raises(Refusal) as caught:
        gate.admit(embeddings, [bearer(token)])
    assert caught.value.reason == "QUOTA_EXCEEDED"
    grant.close()
    gate.admit(embeddings, [bearer(token)])


@pytest.mark.parametrize("method", METHODS)
def test_no_method_is_served_without_a_token(guarded: Guarded, method: str) -> None:
    assert call(guarded, method)[:2] == ("UNAUTHENTICATED", "NO_TOKEN")
    assert call(guarded, method, bearer("hs_wrong"))[:2] == ("UNAUTHENTICATED", "UNKNOWN_TOKEN")


@pytest.mark.parametrize("method", METHODS)
def test_a_token_opens_the_services_of_its_scopes(guarded: Guarded, method: str) -> None:
    """Let in, the empty message is answered, or refused for what it is."""
    refusals = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
    assert call(guarded, method, bearer(guarded.alice))[0] not in refusals
    of_bob = call(guarded, method, bearer(guarded.bob))
    if "Embeddings" in method or "Tokenizer" in method:
        assert of_bob[0] not in refusals
    else:
        assert of_bob[:2] == ("PERMISSION_DENIED", "SCOPE_MISSING")


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "{}")],
        [("authorization", "Basic {}")],
        [("authorization", "Bearer  {}")],
        [("authorization", "Bearer {} ")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer {}"), ("authorization", "Bearer {}")],
        [("x-authorization", "Bearer {}")],
    ],
)
def test_the_form_is_kept_to(guarded: Guarded, headers: list[tuple[str, str]]) -> None:
    sent = [(key, value.format(guarded.alice)) for key, value in headers]
    assert call(guarded, "headstream.v1.ModelService/GetModel", *sent)[:2] == (
        "UNAUTHENTICATED",
        "NO_TOKEN",
    )


def test_health_asks_for_no_token_and_reflection_for_any(guarded: Guarded) -> None:
    assert guarded.server.health() == health_pb2.HealthCheckResponse.SERVING
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(guarded.server.channel)

    def ask(*metadata: tuple[str, str]) -> int:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        reply = next(stub.ServerReflectionInfo(iter([asked]), metadata=metadata, timeout=10))
        return len(reply.list_services_response.service)

    assert ask(bearer(guarded.bob)) > 5
    with pytest.raises(grpc.RpcError) as caught:
        ask()
    assert explain(caught.value)[:2] == ("UNAUTHENTICATED", "NO_TOKEN")


def test_the_client_and_its_errors(guarded: Guarded) -> None:
    with Client(guarded.address, token=guarded.alice) as client:
        assert client.model().name == "tiny"
        assert len(list(client.generate("The chicken", max_new_tokens=3))) == 3
    with Client(guarded.address, token=guarded.bob) as client:
        assert client.embed("The chicken").ndim == 1
        with pytest.raises(PermissionDenied, match="scope: the token does not have 'logits'"):
            list(client.generate("The chicken"))
    with Client(guarded.address) as client, pytest.raises(Unauthenticated, match="is needed"):
        client.model()


def test_the_commands_take_the_token_from_an_option_or_a_variable(guarded: Guarded) -> None:
    command = ["models", "--address", guarded.address]
    runner = CliRunner()
    assert runner.invoke(app, [*command, "--token", guarded.alice]).exit_code == 0
    assert runner.invoke(app, command, env={"HEADSTREAM_TOKEN": guarded.alice}).exit_code == 0
    refused = runner.invoke(app, command)
    assert refused.exit_code == 1
    assert "UNAUTHENTICATED" in refused.stderr


def test_a_quota_refuses_and_says_when_to_come_back(guarded: Guarded) -> None:
    method = "headstream.v1.ModelService/GetModel"
    results = [call(guarded, method, bearer(guarded.carol)) for _ in range(8)]
    refused = [result for result in results if result[0] != "OK"]
    assert {result[:2] for result in refused} == {("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")}
    assert 0 < refused[-1][2] <= 0.5
    assert call(guarded, method, bearer(guarded.alice))[0] == "OK", "others do not suffer"
    time.sleep(refused[-1][2])
    with Client(guarded.address, token=guarded.carol) as client:
        client.model()

        def call_again() -> None:
            for _ in range(8):
                client.model()

        with pytest.raises(ResourceExhausted, match="requests_per_second: the quota is 2") as error:
            call_again()
    assert error.value.retry_after is not None


def test_every_call_is_logged_with_the_name_of_its_token_and_never_the_token(
    guarded: Guarded,
) -> None:
    method = "headstream.v1.ModelService/ListModels"
    for token in (guarded.alice, guarded.bob, "hs_wrong"):
        call(guarded, method, bearer(token))
    line = guarded.wait_for_call(method=method, tenant="alice", code="OK")
    assert line["level"] == "info"
    assert line["peer"].startswith("ipv4:127.0.0.1")
    guarded.wait_for_call(
        method=method, tenant="bob", code="PERMISSION_DENIED", reason="SCOPE_MISSING"
    )
    guarded.wait_for_call(method=method, tenant="", code="UNAUTHENTICATED", reason="UNKNOWN_TOKEN")
    reflection = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    call(guarded, reflection)
    guarded.wait_for_call(method=reflection, tenant="", code="UNAUTHENTICATED", reason="NO_TOKEN")
    text = guarded.log.read_text()
    for secret in (guarded.alice, guarded.bob, guarded.carol, "hs_"):
        assert secret not in text


def test_tokens_are_taken_up_and_taken_away(guarded: Guarded) -> None:
    method, before = "headstream.v1.ModelService/GetModel", guarded.file.read_text()
    dora, entry = make_token("dora")

    def becomes(wanted: str, token: str) -> bool:
        deadline = time.monotonic() + 20
        while call(guarded, method, bearer(token))[0] != wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    assert call(guarded, method, bearer(dora))[0] == "UNAUTHENTICATED"
    try:
        guarded.file.write_text(before + entry)
        assert becomes("OK", dora)
        guarded.file.write_text("[tokens")  # a mistake locks nobody out
        time.sleep(0.5)
        assert "changed files kept out" in guarded.log.read_text()
        assert call(guarded, method, bearer(dora))[0] == "OK"
    finally:
        guarded.file.write_text(before)
    assert becomes("UNAUTHENTICATED", dora)
    assert call(guarded, method, bearer(guarded.alice))[0] == "OK"


def test_a_bad_file_stops_the_start(tiny_model: Path, tmp_path: Path) -> None:
    file, log = tmp_path / "tokens.toml", tmp_path / "log"
    file.write_text("[tokens.alice]\nsha256 = 'x'")
    flags = ["--tokens", str(file)]
    with (
        pytest.raises(AssertionError, match="did not start"),
        running_server(tiny_model, *flags, stderr=log),
    ):
        pass
    assert (
        log.read_text()
        == f"error: tokens: {file}: alice.sha256: must be 64 hex digits, in lower case\n"
    )


def test_without_a_file_nobody_is_asked(tiny_model: Path) -> None:
    """The control: the refusals above come from the file."""
    with running_server(tiny_model) as server, Client(server.address) as client:
        assert client.model().name == "tiny"


@needs_openssl
def test_a_token_over_tls_and_not_without(tiny_model: Path, tmp_path: Path) -> None:
    pair, (token, entry) = Pair.make(tmp_path, "server"), make_token("alice")
    file = tmp_path / "tokens.toml"
    file.write_text(entry)
    with running_server(tiny_model, *pair.flags, "--tokens", str(file)) as server:
        with Client(server.address, tls=Tls(ca=pair.cert), token=token) as client:
            assert client.model().name == "tiny"
        with (
            Client(server.address, tls=Tls(ca=pair.cert)) as stranger,
            pytest.raises(Unauthenticated),
        ):
            stranger.model()
