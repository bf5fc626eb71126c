"""One replica: a whole server with its engines, and a method for each one of the contract."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import aclosing

import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from headstream.server.config import Settings
from headstream.server.config_sources import load_settings
from headstream.server.errors import ConfigError
from headstream.server.front import Front
from headstream.server.listener import contract
from headstream.server.logs import configure_logs
from headstream.server.ray.relay import RayContext, Relay, Reply

BOUNDED = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""With these Ray asks a replica for a message when the one before is sent. Otherwise it takes all
that there are, and a caller who does not read fills the replica's memory."""

MAX_ONGOING = 1024
"""Calls at once that Ray lets in to a replica; the server itself refuses what is too much."""

_DEFAULTS: dict[str, object] = {
    "port": 0,
    "admin_port": 0,
    "max_streams": MAX_ONGOING,  # a replica's calls come over one connection
    "drain_delay": 0,  # Ray has taken the replica out, and waited for its calls, before it stops it
}

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.ray")


def replica_settings(arguments: Mapping[str, object]) -> Settings:
    """The settings of a replica.

    Raises:
        ConfigError: A setting is unknown, wrong, or of no use behind Ray.
    """
    settings = load_settings((), None, **{**_DEFAULTS, **arguments})
    if settings.tls_cert is not None:
        raise ConfigError("tls_cert: Ray speaks plaintext to its replicas; put TLS in front of it")
    return settings


def check_bounded() -> None:
    """Refuse to run where Ray would not hold up the stream of a caller who does not read.

    Raises:
        ConfigError: A variable is not set as it must be.
    """
    for name, value in BOUNDED.items():
        if os.environ.get(name) != value:
            raise ConfigError(f"{name} must be {value}: streams would have no bound")


class Replica:
    """What Ray starts, asks and stops. The methods of the contract are added below."""

    async def __init__(self, arguments: Mapping[str, object]) -> None:  # type: ignore[misc]  # Ray awaits it
        """``arguments``: settings, as of ``headstream serve``."""
        self._check_bounded()
        settings = replica_settings(arguments)
        configure_logs(settings)
        self._front = Front(settings)
        ports = await self._front.listen()
        self.relay = Relay(ports.address)
        try:
            await self._front.load(lambda _: None)
        except BaseException:
            await self._front.close()
            raise
        log.info("replica", address=ports.address, admin_port=ports.admin)

    def _check_bounded(self) -> None:
        check_bounded()

    async def check_health(self) -> None:
        """Ray replaces a replica that fails three times: it is stuck, given up, or does not listen.

        Raises:
            RuntimeError: It is.
        """
        if not self._front.alive:
            raise RuntimeError("an engine is stuck or given up, or nobody listens")

    async def __del__(self) -> None:  # Ray awaits it, after the last call
        await self._front.drain()
        await self.relay.close()
        await self._front.close()


def _add(path: str, method: MethodDescriptor) -> None:
    """Ray calls the method of a deployment that has the name of the RPC's."""

    async def one(self: Replica, request: Message, grpc_context: RayContext) -> Reply:
        return await self.relay.call(path, request, grpc_context)

    async def many(
        self: Replica, request: Message | AsyncIterable[Message], grpc_context: RayContext
    ) -> AsyncGenerator[Reply]:
        async with aclosing(self.relay.stream(path, request, grpc_context)) as replies:
            async for reply in replies:
                yield reply

    setattr(Replica, method.name, many if method.server_streaming else one)


for _service in contract():
    for _method in _service.methods:
        _add(f"/{_service.full_name}/{_method.name}", _method)
