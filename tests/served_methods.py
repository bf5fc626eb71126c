"""Every method that is served, by a name such as ``LogitsService/Generate``."""

from __future__ import annotations

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

from headstream.open_inference import inference_pb2
from headstream.v1 import (
    embeddings_service_pb2,
    internals_service_pb2,
    logits_service_pb2,
    lookup_service_pb2,
    model_service_pb2,
    tokenizer_service_pb2,
)


def _methods(*files: FileDescriptor) -> dict[str, MethodDescriptor]:
    services = [service for file in files for service in file.services_by_name.values()]
    return {
        f"{service.name}/{method.name}": method
        for service in services
        for method in service.methods
    }


SERVER = _methods(
    logits_service_pb2.DESCRIPTOR,
    embeddings_service_pb2.DESCRIPTOR,
    internals_service_pb2.DESCRIPTOR,
    tokenizer_service_pb2.DESCRIPTOR,
    model_service_pb2.DESCRIPTOR,
    inference_pb2.DESCRIPTOR,
)
"""Of the server, with `--open-inference`."""
LOOKUP = _methods(lookup_service_pb2.DESCRIPTOR)
METHODS = SERVER | LOOKUP


def path(method: str) -> str:
    """What gRPC asks for, without the first stroke."""
    return f"{METHODS[method].containing_service.full_name}/{METHODS[method].name}"
