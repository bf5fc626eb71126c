"""The methods that the bridge passes on, and nothing else of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from headstream.v1 import (
    embeddings_service_pb2,
    internals_service_pb2,
    logits_service_pb2,
    model_service_pb2,
    tokenizer_service_pb2,
)

_PASSED = (
    (model_service_pb2.DESCRIPTOR.services_by_name["ModelService"], "ListModels", "GetModel"),
    (tokenizer_service_pb2.DESCRIPTOR.services_by_name["TokenizerService"], "Tokenize"),
    (tokenizer_service_pb2.DESCRIPTOR.services_by_name["TokenizerService"], "Detokenize"),
    (logits_service_pb2.DESCRIPTOR.services_by_name["LogitsService"], "Generate", "Score"),
    (
        embeddings_service_pb2.DESCRIPTOR.services_by_name["EmbeddingsService"],
        "EmbedTokens",
        "LookupEmbeddings",
    ),
    (
        internals_service_pb2.DESCRIPTOR.services_by_name["InternalsService"],
        "Trace",
        "Attention",
        "LogitLens",
    ),
)


@dataclass(frozen=True, slots=True)
class Method:
    """A method without a stream of requests."""

    path: str
    """`/package.Service/Method`."""
    request: type[Message]
    response: type[Message]
    streaming: bool
    """Whether it answers with a stream."""


def passed_methods() -> Mapping[str, Method]:
    """By `package.Service/Method`."""
    methods = (
        _method(service, service.methods_by_name[name])
        for service, *names in _PASSED
        for name in names
    )
    return {method.path.removeprefix("/"): method for method in methods}


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    return Method(
        path=f"/{service.full_name}/{method.name}",
        request=GetMessageClass(method.input_type),
        response=GetMessageClass(method.output_type),
        streaming=method.server_streaming,
    )
