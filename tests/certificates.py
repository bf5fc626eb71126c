"""Certificates made by the openssl command, and what a server shows of its own."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")


@dataclass(frozen=True)
class Pair:
    """A certificate for localhost that vouches for itself, and its key."""

    cert: Path
    key: Path

    @classmethod
    def make(cls, directory: Path, name: str) -> Pair:
        pair = cls(directory / f"{name}.pem", directory / f"{name}.key")
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        files = ["-days", "1", "-keyout", str(pair.key), "-out", str(pair.cert)]
        names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run([*command.split(), *files, *names], check=True, capture_output=True)
        return pair

    @property
    def flags(self) -> list[str]:
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def replace(self, other: Pair) -> None:
        """Put another pair in its place, each file at once."""
        for mine, theirs in ((self.cert, other.cert), (self.key, other.key)):
            copy = mine.with_suffix(".new")
            copy.write_bytes(theirs.read_bytes())
            copy.replace(mine)

    def trust(self, me: Pair | None = None) -> grpc.ChannelCredentials:
        """Of a client that trusts this pair, and shows its own if it has one."""
        mine = (None, None) if me is None else (me.key.read_bytes(), me.cert.read_bytes())
        return grpc.ssl_channel_credentials(self.cert.read_bytes(), *mine)


def shown_by(address: str) -> str:
    """The certificate, in PEM, that a new connection is shown."""
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=10)
