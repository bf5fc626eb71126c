"""How a client connects: balancing, health, retries, keepalive, TLS and the token."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Sequence

ChannelT = TypeVar("ChannelT", grpc.Channel, grpc.aio.Channel)

_PACKAGE = "headstream.v1"

# Only what may run twice: a stream that broke may have been read, so it is never repeated.
_RETRIED = (
    {"service": f"{_PACKAGE}.EmbeddingsService", "method": "Embed"},
    {"service": f"{_PACKAGE}.EmbeddingsService", "method": "LookupEmbeddings"},
    {"service": f"{_PACKAGE}.TokenizerService"},
    {"service": f"{_PACKAGE}.ModelService"},
)


@dataclass(frozen=True, slots=True)
class Tls:
    """Encryption, with files in PEM format."""

    ca: str | Path | None = None  # authorities that may vouch for the server; None: gRPC's own
    cert: str | Path | None = None  # this client's certificate, where the server asks for one
    key: str | Path | None = None  # the certificate's private key

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            OSError: A file cannot be read.
        """
        ca, key, cert = (
            Path(path).read_bytes() if path is not None else None
            for path in (self.ca, self.key, self.cert)
        )
        return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass(frozen=True, slots=True)
class Target:
    """What is connected to, and how its calls are made."""

    address: str
    credentials: grpc.ChannelCredentials | None  # None: plaintext
    metadata: tuple[tuple[str, str], ...]  # sent with every call
    timeout: float | None  # seconds, of calls with one answer
    stream_timeout: float | None  # seconds, of streams
    connect_timeout: float  # seconds, until a healthy server is found


def service_config() -> dict[str, Any]:
    """The policy of a channel, in the terms of gRPC's service config.

    Every address of the name is used in turn as long as its health service says SERVING. Calls
    wait for a server within their timeout; unary ones are repeated when the server had not begun.
    """
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        "methodConfig": [
            {"name": [{}], "waitForReady": True},
            {
                "name": list(_RETRIED),
                "waitForReady": True,
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
        ],
    }


def channel_options() -> Sequence[tuple[str, str | int]]:
    """The options of a channel. Messages stay within gRPC's default limit of 4 MiB."""
    return (
        ("grpc.service_config", json.dumps(service_config())),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    )


def traced(channel: ChannelT, address: str) -> ChannelT:
    """The channel for stubs: its calls are spans, if the application has imported OpenTelemetry.

    An application that has set it up has imported it, so that nobody else pays for it.
    """
    if "opentelemetry.trace" not in sys.modules:
        return channel
    from headstream.client._traced_channel import TracedChannel  # noqa: PLC0415 - the same

    return cast("ChannelT", TracedChannel(channel, address))


def credentials(tls: bool | str | Path | Tls) -> grpc.ChannelCredentials | None:
    """Credentials for the `tls` argument of a client; None for plaintext.

    Raises:
        OSError: A file cannot be read.
    """
    if tls is False:
        return None
    if tls is True:
        return Tls().credentials()
    return (tls if isinstance(tls, Tls) else Tls(ca=tls)).credentials()


def call_metadata(address: str, *, safe: bool, token: str | None) -> tuple[tuple[str, str], ...]:
    """Metadata sent with every call. ``safe``: nobody on the way can read it.

    Raises:
        ValueError: A token would cross the network in plaintext.
    """
    if token is None:
        return ()
    if not safe and not is_loopback(address):
        raise ValueError(f"a token for {address} needs tls: it would be sent in plaintext")
    return (("authorization", f"Bearer {token}"),)


def is_loopback(address: str) -> bool:
    """Whether an address stays on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    target = address.rpartition("/")[2].removeprefix("dns:")
    for scheme in ("ipv4:", "ipv6:"):
        target = target.removeprefix(scheme)
    host = target if target.count(":") > 1 and "]" not in target else target.rpartition(":")[0]
    host = (host or target).strip("[]")
    return host in {"localhost", "::1"} or _is_127(host)


def _is_127(host: str) -> bool:
    numbers = host.split(".")
    return len(numbers) == 4 and numbers[0] == "127" and all(part.isdigit() for part in numbers)
