"""The gRPC port: options, TLS, services."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from headstream.access import call_server
from headstream.access.certificates import Certificates
from headstream.access.files import FileError
from headstream.open_inference import inference_pb2, inference_pb2_grpc
from headstream.server.config import Settings
from headstream.server.errors import ConfigError
from headstream.server.health import Health
from headstream.server.interceptor import CallInterceptor
from headstream.server.metrics import Metrics
from headstream.server.models import Models
from headstream.server.services.embeddings import EmbeddingsService
from headstream.server.services.internals import InternalsService
from headstream.server.services.logits import LogitsService
from headstream.server.services.model import ModelService
from headstream.server.services.open_inference import OpenInferenceService
from headstream.server.services.tokenizer import TokenizerService
from headstream.v1 import (
    embeddings_service_pb2,
    embeddings_service_pb2_grpc,
    internals_service_pb2,
    internals_service_pb2_grpc,
    logits_service_pb2,
    logits_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    tokenizer_service_pb2,
    tokenizer_service_pb2_grpc,
)

HEALTH_SERVICE = "grpc.health.v1.Health"
KEEPALIVE_SECONDS = 60

_OPEN_INFERENCE: ServiceDescriptor = inference_pb2.DESCRIPTOR.services_by_name[
    "GRPCInferenceService"
]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One service of the contract and the class that serves it."""

    descriptor: ServiceDescriptor
    # Any: the generated types declare every method abstract, also those left to the generated base.
    servicer: Any


def _entries() -> tuple[_Entry, ...]:
    return (
        _Entry(logits_service_pb2.DESCRIPTOR.services_by_name["LogitsService"], LogitsService),
        _Entry(
            embeddings_service_pb2.DESCRIPTOR.services_by_name["EmbeddingsService"],
            EmbeddingsService,
        ),
        _Entry(
            internals_service_pb2.DESCRIPTOR.services_by_name["InternalsService"],
            InternalsService,
        ),
        _Entry(
            tokenizer_service_pb2.DESCRIPTOR.services_by_name["TokenizerService"],
            TokenizerService,
        ),
        _Entry(model_service_pb2.DESCRIPTOR.services_by_name["ModelService"], ModelService),
    )


def contract() -> tuple[ServiceDescriptor, ...]:
    """The services of the contract."""
    return tuple(entry.descriptor for entry in _entries())


def service_names(settings: Settings) -> tuple[str, ...]:
    """Full names of the services that are served."""
    names = [entry.descriptor.full_name for entry in _entries() if _is_on(settings, entry.servicer)]
    return (*names, _OPEN_INFERENCE.full_name) if settings.open_inference else tuple(names)


def capabilities(settings: Settings) -> tuple[tuple[str, bool], ...]:
    """Every method of the contract, and whether it is served."""
    return tuple(
        (
            f"{entry.descriptor.full_name}/{method.name}",
            _is_on(settings, entry.servicer) and _is_filled_in(entry.servicer, method.name),
        )
        for entry in _entries()
        for method in entry.descriptor.methods
    )


def _is_on(settings: Settings, servicer: Any) -> bool:
    return settings.serves_internals or servicer is not InternalsService


def _is_filled_in(servicer: Any, method: str) -> bool:
    behavior = getattr(servicer, method)
    return inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior)


def make_server(
    settings: Settings,
    models: Models,
    metrics: Metrics,
    interceptor: CallInterceptor,
    health: Health,
) -> grpc.aio.Server:
    """The server with all services, not yet listening."""
    count_unknown = interceptor.policy.count_unknown_method
    server = call_server.make_server([interceptor], _options(settings), count_unknown)
    logits: Any = LogitsService
    embeddings: Any = EmbeddingsService
    internals: Any = InternalsService
    closed: Any = internals_service_pb2_grpc.InternalsServiceServicer  # says of all: not served
    logits_service_pb2_grpc.add_LogitsServiceServicer_to_server(
        logits(models, metrics, settings.session_idle), server
    )
    embeddings_service_pb2_grpc.add_EmbeddingsServiceServicer_to_server(
        embeddings(models, metrics, settings.session_idle), server
    )
    internals_service_pb2_grpc.add_InternalsServiceServicer_to_server(
        internals(models, metrics) if settings.serves_internals else closed(), server
    )
    tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(
        TokenizerService(models), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(models, capabilities(settings)), server
    )
    if settings.open_inference:
        open_inference: Any = OpenInferenceService
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            open_inference(
                models,
                metrics,
                health,
                session_idle=settings.session_idle,
                session_deadline=settings.session_deadline,
            ),
            server,
        )
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    if settings.serves_reflection:
        names = (*service_names(settings), HEALTH_SERVICE, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    return server


def bind(server: grpc.aio.Server, settings: Settings, certificates: Certificates | None) -> int:
    """Take the port; returns its number.

    Raises:
        ConfigError: It is taken.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"
    try:
        if certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificates.credentials())
    except RuntimeError:
        raise ConfigError(f"port: {address} cannot be bound; it may be in use") from None


def read_certificates(settings: Settings) -> Certificates | None:
    """The TLS files of the settings; None: plaintext.

    Raises:
        ConfigError: They cannot be used.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        return Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    except FileError as error:
        raise ConfigError(str(error)) from None


def _options(settings: Settings) -> Sequence[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        ("grpc.max_send_message_length", -1),  # bounded by what services make, with room for heads
        ("grpc.max_concurrent_streams", settings.max_streams),
        ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not a share
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        # This spelling works; `min_recv_ping_interval_without_data_ms` is silently ignored.
        ("grpc.http2.min_ping_interval_without_data_ms", int(settings.keepalive_min_ping * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if settings.connection_age is not None:
        # No grace, which would cut sessions and bulk streams. Calls have bounds of their own, but
        # for health's Watch and reflection: they hold their old connection as long as they like.
        options.append(("grpc.max_connection_age_ms", int(settings.connection_age * 1000)))
    return options
