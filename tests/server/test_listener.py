from __future__ import annotations

import asyncio
import json
import stat
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import front_fakes
from certificates import Pair, needs_openssl
from headstream.server.errors import ConfigError
from headstream.v1 import model_service_pb2, model_service_pb2_grpc


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Its own authority, for the server and for the client."""
    return Pair.make(tmp_path_factory.mktemp("tls"), "localhost")


async def ask(address: str, credentials: grpc.ChannelCredentials) -> str:
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        reply = await stub.GetModel(model_service_pb2.GetModelRequest(), timeout=60)
        name: str = reply.model.name
        return name


@needs_openssl
async def test_tls(checkpoint: Path, pair: Pair) -> None:
    async with front_fakes.running_front(checkpoint, *pair.flags) as running:
        assert await ask(f"localhost:{running.ports.grpc}", pair.trust()) == "tiny"


@needs_openssl
async def test_mutual_tls_lets_only_known_clients_in(checkpoint: Path, pair: Pair) -> None:
    flags = [*pair.flags, "--tls-client-ca", str(pair.cert)]
    async with front_fakes.running_front(checkpoint, *flags) as running:
        address = f"localhost:{running.ports.grpc}"
        assert await ask(address, pair.trust(pair)) == "tiny"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(address, pair.trust())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def modes(folder: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()]


@needs_openssl
async def test_the_explorer_needs_no_certificate(
    checkpoint: Path, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bridge is inside the server; nobody else can reach the way it takes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cert = str(pair.cert)
    flags = ["--tls-cert", cert, "--tls-key", str(pair.key), "--tls-client-ca", cert]
    async with front_fakes.running_front(checkpoint, *flags, "--explorer") as running:
        request = urllib.request.Request(
            f"http://127.0.0.1:{running.ports.admin}/explorer/api/"
            "headstream.v1.ModelService/GetModel",
            data=b"{}",
            headers={"Content-Type": "application/json"},
        )

        def ask_bridge() -> Any:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return json.loads(reply.read())

        reply = await asyncio.to_thread(ask_bridge)
        assert reply["model"]["name"] == "tiny"
        assert modes(tmp_path) == [0o700]
    assert modes(tmp_path) == []


async def test_a_missing_tls_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    flags = ["--tls-cert", str(tmp_path / "no.pem"), "--tls-key", str(tmp_path / "no.key")]
    with pytest.raises(ConfigError, match=r"no\.key"):
        await front_fakes.running_front(checkpoint, *flags).__aenter__()


async def test_a_port_in_use_is_named(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint) as running:
        for flag, port in (("--port", running.ports.grpc), ("--admin-port", running.ports.admin)):
            with pytest.raises(ConfigError, match=str(port)):
                await front_fakes.running_front(checkpoint, flag, str(port)).__aenter__()


async def test_too_large_a_request_is_refused(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, "--max-request-bytes", "1000") as running:
        call: Any = running.channel.unary_unary("/headstream.v1.ModelService/GetModel")
        name = b"x" * 997  # with a head of 3 bytes
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\x0a\xe5\x07" + name)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\x0a\xe6\x07" + name + b"x")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
