"""Every reply says which numbers it holds, and whether they are those of any crowd."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from headstream.server.config_sources import load_settings
from headstream.server.engine import build
from headstream.server.engine.handle import EngineHandle
from headstream.server.front import Front
from headstream.server.logs import configure_logs
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import embeddings_service_pb2_grpc as embeddings_grpc
from headstream.v1 import logits_service_pb2 as logits_pb
from headstream.v1 import logits_service_pb2_grpc as logits_grpc
from headstream.v1 import model_service_pb2 as model_pb
from headstream.v1 import model_service_pb2_grpc as model_grpc
from headstream.v1 import types_pb2
from model_reference import PLAIN_KERNELS

TEXT = types_pb2.Input(text="The chicken")


async def _first(call: Any) -> Any:
    reply = await call.read()
    call.cancel()
    return reply


async def fingerprints(channel: grpc.aio.Channel) -> dict[str, types_pb2.ModelFingerprint]:
    """What each served method says."""
    logits: Any = logits_grpc.LogitsServiceStub(channel)
    embeddings: Any = embeddings_grpc.EmbeddingsServiceStub(channel)
    models: Any = model_grpc.ModelServiceStub(channel)
    opening = logits_pb.DecodeRequest(open=logits_pb.DecodeOpen(prompt=TEXT))
    item = embeddings_pb.EmbedInput(input=TEXT)
    generated = await _first(logits.Generate(logits_pb.GenerateRequest(prompt=TEXT)))
    scored = await _first(logits.Score(logits_pb.ScoreRequest(inputs=[TEXT])))
    decoded = await _first(logits.Decode(iter([opening])))
    embedded = await embeddings.Embed(embeddings_pb.EmbedRequest(inputs=[item]))
    read = await _first(embeddings.EmbedTokens(embeddings_pb.EmbedTokensRequest(input=TEXT)))
    found = await embeddings.LookupEmbeddings(embeddings_pb.LookupEmbeddingsRequest(input=TEXT))
    told = await models.GetModel(model_pb.GetModelRequest())
    return {
        "Generate": generated.start.fingerprint,
        "Score": scored.start.fingerprint,
        "Decode": decoded.fingerprint,
        "Embed": embedded.fingerprint,
        "EmbedTokens": read.start.fingerprint,
        "LookupEmbeddings": found.fingerprint,
        "GetModel": told.model.fingerprint,
    }


@pytest.mark.parametrize("invariant", [True, False])
async def test_every_reply_tells(
    tiny_model: Path, invariant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's plain operators compute a row by the number of rows beside it."""
    if not invariant:
        monkeypatch.setattr(build, "choose_kernels", lambda *_, **__: PLAIN_KERNELS)
    flags = ["--models", f"tiny={tiny_model}", "--port", "0", "--admin-port", "0"]
    flags += ["--threads", "1", "--drain-delay", "0"]
    settings = load_settings(flags)
    configure_logs(settings, io.StringIO())
    front = Front(settings, lambda config: EngineHandle(config, in_process=True))
    ports = await front.listen()
    try:
        await front.load(lambda _: None)
        async with grpc.aio.insecure_channel(ports.address) as channel:
            told = await fingerprints(channel)
    finally:
        await front.close()
    expected = told["GetModel"]
    assert expected.batch_invariant is invariant
    assert len(expected.weights_sha256) == 64
    assert told == dict.fromkeys(told, expected)
