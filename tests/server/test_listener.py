from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import front_fakes
from headstream.server.errors import ConfigError
from headstream.v1 import model_service_pb2, model_service_pb2_grpc

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One pair, its own authority, for the server and for the client."""
    directory = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    files = ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command.split(), *files, *names], check=True, capture_output=True)
    return directory


async def ask(address: str, credentials: grpc.ChannelCredentials) -> str:
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        reply = await stub.GetModel(model_service_pb2.GetModelRequest(), timeout=60)
        name: str = reply.model.name
        return name


@needs_openssl
async def test_tls(checkpoint: Path, certificates: Path) -> None:
    cert = certificates / "cert.pem"
    flags = ["--tls-cert", str(cert), "--tls-key", str(certificates / "key.pem")]
    async with front_fakes.running_front(checkpoint, *flags) as running:
        address = f"localhost:{running.ports.grpc}"
        assert await ask(address, grpc.ssl_channel_credentials(cert.read_bytes())) == "tiny"


@needs_openssl
async def test_mutual_tls_lets_only_known_clients_in(checkpoint: Path, certificates: Path) -> None:
    cert, key = certificates / "cert.pem", certificates / "key.pem"
    flags = ["--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(cert)]
    async with front_fakes.running_front(checkpoint, *flags) as running:
        address = f"localhost:{running.ports.grpc}"
        known = grpc.ssl_channel_credentials(cert.read_bytes(), key.read_bytes(), cert.read_bytes())
        assert await ask(address, known) == "tiny"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(address, grpc.ssl_channel_credentials(cert.read_bytes()))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


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
