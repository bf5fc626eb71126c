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
import psutil
import pytest

import front_fakes
from certificates import Pair, needs_openssl
from front_calls import until
from front_fakes import Running
from headstream.server.errors import ConfigError
from headstream.v1 import embeddings_service_pb2 as embed_pb
from headstream.v1 import (
    embeddings_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    types_pb2,
)


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


def connections(running: Running) -> set[int]:
    """The clients' ports."""
    return {
        each.raddr.port
        for each in psutil.Process().net_connections("tcp")
        if each.laddr.port == running.ports.grpc and each.status == psutil.CONN_ESTABLISHED
    }


@pytest.mark.slow
async def test_the_age_of_a_connection_cuts_no_call(checkpoint: Path) -> None:
    """New calls go over a new one. A grace of ten seconds more than the deadline was too little."""
    flags = ("--connection-age", "0.3", "--stream-deadline", "0.1")
    async with front_fakes.running_front(checkpoint, *flags) as running:
        stub: Any = embeddings_service_pb2_grpc.EmbeddingsServiceStub(running.channel)
        texts = stub.EmbedStream()

        async def embed(number: int) -> int:
            item = embed_pb.EmbedStreamItem(
                id=number, item=embed_pb.EmbedInput(input=types_pb2.Input(text="fish"))
            )
            await texts.write(embed_pb.EmbedStreamRequest(items=[item]))
            answered: int = (await texts.read()).answers[0].id
            return answered

        assert await embed(1) == 1
        [first] = connections(running)
        await asyncio.sleep(11.5)
        others = stub.EmbedStream()
        await others.write(embed_pb.EmbedStreamRequest())
        await until(lambda: bool(connections(running) - {first}))  # negative control: it has aged
        await others.done_writing()
        assert await embed(2) == 2
        await texts.done_writing()
        assert await texts.read() is grpc.aio.EOF
        assert await texts.code() is grpc.StatusCode.OK
