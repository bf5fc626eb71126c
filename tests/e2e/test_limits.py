"""Limits of the real server, as it tells them itself, at N and at N + 1."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import grpc
import pytest

from headstream.v1 import embeddings_service_pb2 as embed_pb
from headstream.v1 import embeddings_service_pb2_grpc as embed_grpc
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc as pb_grpc
from headstream.v1 import model_service_pb2, model_service_pb2_grpc, types_pb2

Code = grpc.StatusCode


@pytest.fixture
def channel(server: str) -> Generator[grpc.Channel]:
    with grpc.insecure_channel(server) as opened:
        yield opened


@pytest.fixture
def model(channel: grpc.Channel) -> model_service_pb2.Model:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
    reply = stub.GetModel(model_service_pb2.GetModelRequest(), timeout=60)
    found: model_service_pb2.Model = reply.model
    return found


def ids(count: int) -> types_pb2.Input:
    return types_pb2.Input(token_ids=types_pb2.TokenIds(ids=[5] * count))


def generate(channel: grpc.Channel, **fields: Any) -> grpc.StatusCode:
    stub: Any = pb_grpc.LogitsServiceStub(channel)
    fields.setdefault("prompt", ids(3))
    fields.setdefault("stop", pb.StopConditions(max_new_tokens=1))
    try:
        list(stub.Generate(pb.GenerateRequest(**fields), timeout=60))
    except grpc.RpcError as error:
        failed: Any = error
        code: grpc.StatusCode = failed.code()
        return code
    return Code.OK


@pytest.mark.parametrize(("extra", "code"), [(0, Code.OK), (1, Code.INVALID_ARGUMENT)])
def test_top_k(channel: grpc.Channel, model: Any, extra: int, code: grpc.StatusCode) -> None:
    top_k = model.limits.max_top_k + extra
    options = pb.LogitsOptions(mode=pb.LOGITS_MODE_TOP_K, top_k=top_k)
    assert generate(channel, logits=options) is code


@pytest.mark.parametrize(("extra", "code"), [(0, Code.OK), (1, Code.INVALID_ARGUMENT)])
def test_context(channel: grpc.Channel, model: Any, extra: int, code: grpc.StatusCode) -> None:
    prompt = ids(model.limits.max_model_tokens - 1 + extra)
    assert generate(channel, prompt=prompt) is code


@pytest.mark.parametrize(("extra", "code"), [(0, Code.OK), (1, Code.INVALID_ARGUMENT)])
def test_layers(channel: grpc.Channel, model: Any, extra: int, code: grpc.StatusCode) -> None:
    layers = types_pb2.LayerSelection(layers=[model.sizes.layers + extra])
    assert generate(channel, embeddings=pb.GeneratedEmbeddings(layers=layers)) is code


@pytest.mark.parametrize(("extra", "code"), [(-1, Code.OK), (0, Code.INVALID_ARGUMENT)])
def test_vocabulary(channel: grpc.Channel, model: Any, extra: int, code: grpc.StatusCode) -> None:
    token_ids = types_pb2.TokenIds(ids=[model.sizes.vocabulary + extra])
    assert generate(channel, prompt=types_pb2.Input(token_ids=token_ids)) is code


@pytest.mark.parametrize(("missing", "code"), [(0, Code.OK), (1, Code.RESOURCE_EXHAUSTED)])
def test_reply_bytes(
    channel: grpc.Channel, model: Any, missing: int, code: grpc.StatusCode
) -> None:
    row = 4 * model.sizes.vocabulary
    options = pb.LogitsOptions(mode=pb.LOGITS_MODE_FULL)
    assert generate(channel, logits=options, max_reply_bytes=row - missing) is code


@pytest.mark.parametrize(("extra", "code"), [(0, Code.OK), (1, Code.INVALID_ARGUMENT)])
def test_texts(channel: grpc.Channel, model: Any, extra: int, code: grpc.StatusCode) -> None:
    stub: Any = embed_grpc.EmbeddingsServiceStub(channel)
    inputs = [embed_pb.EmbedInput(input=ids(2))] * (model.limits.max_inputs + extra)
    try:
        reply = stub.Embed(embed_pb.EmbedRequest(inputs=inputs), timeout=60)
    except grpc.RpcError as error:
        failed: Any = error
        assert failed.code() is code
        return
    assert code is Code.OK
    assert all(result.HasField("embedding") for result in reply.results)
