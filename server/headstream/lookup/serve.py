"""The process of the lookup service, from the first connection to the last signal."""

from __future__ import annotations

import asyncio
import fcntl
import signal
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from headstream.access import call_server
from headstream.access.certificates import Certificates
from headstream.access.files import FileError, watch
from headstream.access.gate import Gate
from headstream.access.loopback import is_loopback
from headstream.client import AsyncClient, HeadstreamError
from headstream.lookup.cache import VectorCache
from headstream.lookup.calls import CallInterceptor
from headstream.lookup.embedder import Embedder
from headstream.lookup.errors import ModelChanged, StartError
from headstream.lookup.identity import Identity
from headstream.lookup.logs import configure_logs
from headstream.lookup.service import LookupService
from headstream.lookup.settings import Settings
from headstream.lookup.store import Store
from headstream.v1 import lookup_service_pb2, lookup_service_pb2_grpc

NAME = lookup_service_pb2.DESCRIPTOR.services_by_name["LookupService"].full_name
GRACE_SECONDS = 10.0
MAX_MESSAGE_BYTES = 64 << 20
CONNECT_SECONDS = 10.0
RETRY_AFTER_SECONDS = 1.0


async def serve(settings: Settings, on_ready: Callable[[str, Identity], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``on_ready`` is told the address and whose vectors these are.

    Raises:
        StartError: The server, the store or the port cannot be used.
    """
    configure_logs()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        if settings.on_disk is not None:
            stack.enter_context(_only_writer(settings.on_disk))
        service = await stack.enter_async_context(_service(settings))
        gate, certificates = _access(settings)
        server = call_server.make_server(
            interceptors=[CallInterceptor(gate)],
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ],
            on_unknown=lambda: None,
        )
        lookup_service_pb2_grpc.add_LookupServiceServicer_to_server(service, server)
        checks: Any = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue] - set at import
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        if settings.reflection:
            names = (NAME, "grpc.health.v1.Health", reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        port = _bind(server, settings, certificates)
        for name in ("", NAME):
            await checks.set(name, HealthCheckResponse.SERVING)
        await server.start()
        files = [*gate.files, *([] if certificates is None else [certificates.files])]
        watching = asyncio.create_task(watch(files, settings.reload_interval), name="file watch")
        stack.callback(watching.cancel)
        on_ready(f"{_host(settings)}:{port}", service.identity)
        await stop.wait()
        for name in ("", NAME):
            await checks.set(name, HealthCheckResponse.NOT_SERVING)
        await server.stop(GRACE_SECONDS)


@asynccontextmanager
async def _service(settings: Settings) -> AsyncGenerator[LookupService]:
    """The service with its server, cache and store."""
    async with _client(settings) as client:
        try:
            info = await client.model(settings.model)
        except HeadstreamError as error:
            raise StartError(f"the Headstream server {settings.server}: {error}") from None
        if info.state != "serving":
            raise StartError(f"model {info.name} of {settings.server} is {info.state}")
        identity = Identity.of(info)
        try:
            store = await Store.open(settings.store, settings.storage_options, identity)
        except ModelChanged as error:
            raise StartError(f"{settings.store}: {error}") from None
        except (RuntimeError, ValueError, OSError) as error:  # what LanceDB raises
            raise StartError(f"{settings.store} cannot be opened: {error}") from None
        try:
            with closing(VectorCache(settings.cache_file)) as cache:
                yield LookupService(
                    Embedder(client, info, cache, chunk_tokens=settings.chunk_tokens), store
                )
        finally:
            await store.close()


def _client(settings: Settings) -> AsyncClient:
    try:
        return AsyncClient(
            settings.server,
            tls=settings.server_ca or False,
            token=settings.server_token,
            connect_timeout=CONNECT_SECONDS,
        )
    except (OSError, ValueError) as error:  # the file of authorities; a token without TLS
        raise StartError(f"the Headstream server {settings.server}: {error}") from None


@contextmanager
def _only_writer(folder: Path) -> Generator[None]:
    """Hold the folder; the lock ends with the process, however that ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise StartError(f"{folder}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"{folder} is in use by another lookup service") from None
        yield


def _host(settings: Settings) -> str:
    return f"[{settings.host}]" if ":" in settings.host else settings.host


def _access(settings: Settings) -> tuple[Gate, Certificates | None]:
    """Who is let in, and the TLS files; None: plaintext."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and not settings.insecure and not is_loopback(settings.host):
        raise StartError(
            f"host: {settings.host} can be reached by other machines and there is no TLS; "
            "give --tls-cert and --tls-key, or --insecure if the network is trusted"
        )
    try:
        gate = Gate(settings.tokens, RETRY_AFTER_SECONDS)
        if cert is None or key is None:
            return gate, None
        return gate, Certificates(cert, key, settings.tls_client_ca)
    except FileError as error:
        raise StartError(str(error)) from None


def _bind(server: grpc.aio.Server, settings: Settings, certificates: Certificates | None) -> int:
    address = f"{_host(settings)}:{settings.port}"
    try:
        if certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificates.credentials())
    except RuntimeError as error:
        raise StartError(f"{address} cannot be bound: {error}") from None
