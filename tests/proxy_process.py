"""The real load balancers as processes of their own, with the configurations of deploy/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from certificates import Pair
from headstream.v1 import model_service_pb2 as pb
from headstream.v1 import model_service_pb2_grpc
from replicas import Replica, free_port

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
START_SECONDS = 20
CONFIGS = {
    "envoy": DEPLOY / "envoy" / "envoy.yaml",
    "haproxy": DEPLOY / "haproxy" / "haproxy.cfg",
    "nginx": DEPLOY / "nginx" / "nginx.conf",
}


def find_program(name: str) -> str:
    """Its path; the test is skipped where it is not installed."""
    folders = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/usr/sbin"
    path = shutil.which(name, path=folders)
    if path is None:
        pytest.skip(f"{name} is not installed")
    if name == "nginx" and os.geteuid() != 0:
        pytest.skip("nginx keeps temporary files where root alone may write")
    return path


@dataclass(frozen=True)
class ProxyTls:
    """Certificates of a proxy that speaks TLS, and asks for it, on both sides."""

    own: Pair
    servers: Path
    clients: Path
    channel: grpc.ChannelCredentials  # of a client that is let in

    def put(self, text: str, directory: Path) -> str:
        """A configuration with our paths, and the name in our certificates."""
        both = directory / "proxy.pem"
        both.write_bytes(self.own.cert.read_bytes() + self.own.key.read_bytes())
        files = {
            "proxy.crt": self.own.cert,
            "proxy.key": self.own.key,
            "proxy.pem": both,
            "servers.crt": self.servers,
            "clients.crt": self.clients,
        }
        for name, path in files.items():
            text = text.replace(f"/etc/headstream/tls/{name}", str(path))
        for pattern in ("sni: {}", "exact: {}", "str({})"):
            text = text.replace(pattern.format("headstream"), pattern.format("localhost"))
        return text


def _envoy(
    port: int, replicas: Sequence[Replica], directory: Path, tls: ProxyTls | None
) -> list[str]:
    config = yaml.safe_load(CONFIGS["envoy"].read_text())
    if tls is not None:
        parts = yaml.safe_load(tls.put((DEPLOY / "envoy" / "tls.yaml").read_text(), directory))
        [[chain]] = [each["filter_chains"] for each in config["static_resources"]["listeners"]]
        chain |= parts["downstream"]
        for cluster in config["static_resources"]["clusters"]:
            cluster.update(parts["upstream"])
    del config["admin"]  # of no use here, and its port may be taken
    [listener] = config["static_resources"]["listeners"]
    listener["address"]["socket_address"] = _socket(port)["socket_address"]
    for cluster in config["static_resources"]["clusters"]:
        [group] = cluster["load_assignment"]["endpoints"]
        group["lb_endpoints"] = [
            # use_hostname_for_hashing asks for a name that tells them apart
            {"endpoint": {"address": _socket(replica.port), "hostname": f"headstream-{number}"}}
            for number, replica in enumerate(replicas)
        ]
    path = directory / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [find_program("envoy"), "-c", str(path), "--concurrency", "1", "--log-level", "error"]
    return [*command, "--disable-hot-restart"]


def _socket(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _haproxy(
    port: int, replicas: Sequence[Replica], directory: Path, tls: ProxyTls | None
) -> list[str]:
    text = CONFIGS["haproxy"].read_text()
    if tls is not None:
        text = text.replace("    bind :50051 proto h2\n", "").replace("# tls: ", "")
        text = tls.put(text, directory)
    text = text.replace(":50051", f"127.0.0.1:{port}")
    path = directory / "haproxy.cfg"
    path.write_text(re.sub(r"(    server .*\n)+", lambda group: _servers(group[0], replicas), text))
    return [find_program("haproxy"), "-q", "-db", "-f", str(path)]


def _servers(lines: str, replicas: Sequence[Replica]) -> str:
    """The replicas in place of the servers of one backend."""
    names = [f"headstream-{number}" for number in range(len(replicas))]
    tracks = "track" in lines  # the checks of another backend
    return "".join(
        f"    server {name} 127.0.0.1:{replica.port} "
        + (f"track headstream/{name}\n" if tracks else f"port {replica.admin_port}\n")
        for name, replica in zip(names, replicas, strict=True)
    )


def _nginx(
    port: int, replicas: Sequence[Replica], directory: Path, tls: ProxyTls | None
) -> list[str]:
    assert tls is None, "not written"
    text = CONFIGS["nginx"].read_text()
    text = re.sub(r"\n +server 127\.0\.0\.1:.*", "", text)
    servers = "".join(
        f"\n        server 127.0.0.1:{replica.port} max_fails=1 fail_timeout=2s;"
        for replica in replicas
    )
    text = text.replace("least_conn;", "least_conn;" + servers)
    text = text.replace("listen 50051", f"listen 127.0.0.1:{port}")
    text = text.replace("/tmp/headstream-nginx.pid", str(directory / "nginx.pid"))
    path = directory / "nginx.conf"
    path.write_text(text)
    return [find_program("nginx"), "-p", str(directory), "-c", str(path), "-g", "daemon off;"]


_COMMANDS: dict[str, Callable[[int, Sequence[Replica], Path, ProxyTls | None], list[str]]] = {
    "envoy": _envoy,
    "haproxy": _haproxy,
    "nginx": _nginx,
}


@contextmanager
def running_proxy(
    kind: str, replicas: Sequence[Replica], directory: Path, tls: ProxyTls | None = None
) -> Generator[str]:
    """Its address, once it passes calls on. One replica at least must be serving."""
    port = free_port()
    command = _COMMANDS[kind](port, replicas, directory, tls)
    process = subprocess.Popen(command)
    address = f"127.0.0.1:{port}"
    try:
        with (
            grpc.insecure_channel(address)
            if tls is None
            else grpc.secure_channel(address, tls.channel)
        ) as channel:
            stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
            _wait_for(stub)
        yield address
    finally:
        process.kill()
        process.wait()


def _wait_for(stub: Any) -> None:
    """The first check of the replicas may still be under way."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            stub.ListModels(pb.ListModelsRequest(), timeout=5, wait_for_ready=True)
        except grpc.RpcError as error:
            failed: Any = error
            if failed.code() is grpc.StatusCode.UNAUTHENTICATED:
                return  # the call went through to a server that wants a token
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return
