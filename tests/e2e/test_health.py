"""Health, reflection and discovery of the real server."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headstream.v1 import model_service_pb2, model_service_pb2_grpc

SERVICES = ["Logits", "Embeddings", "Internals", "Tokenizer", "Model"]


@pytest.mark.parametrize("service", ["", *(f"headstream.v1.{name}Service" for name in SERVICES)])
def test_every_service_reports_serving(server: str, service: str) -> None:
    with grpc.insecure_channel(server) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_what_is_said_to_be_served_is_served_and_nothing_else(server: str) -> None:
    with grpc.insecure_channel(server) as channel:
        stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        [model, *_] = stub.ListModels(model_service_pb2.ListModelsRequest(), timeout=60).models
        assert model.state == model_service_pb2.MODEL_STATE_SERVING
        assert len(model.fingerprint.weights_sha256) == 64
        for capability in model.capabilities:
            call: Any = channel.unary_stream(f"/{capability.method}")
            try:
                list(call(b"", timeout=60))
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                failed: Any = error
                code = failed.code()
            unimplemented = code is grpc.StatusCode.UNIMPLEMENTED
            assert unimplemented is not capability.served, capability.method
