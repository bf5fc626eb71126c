"""The service waits for a server that has too much to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest

from client_messages import stream_answer
from headstream.access.failure import to_trailers
from headstream.client import AsyncClient
from headstream.lookup.cache import VectorCache
from headstream.lookup.embedder import Embedder
from headstream.lookup.errors import ModelRefused
from headstream.server.errors import QueueFull, ReplyTooLarge, ServiceError, TooLate
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import model_service_pb2 as model_pb
from scripted_server import Script, scripted_server

LIMITS = model_pb.Limits(max_text_bytes=1000, max_model_tokens=100)
MODEL = model_pb.Model(
    name="m",
    state=model_pb.MODEL_STATE_SERVING,
    sizes=model_pb.ModelSizes(dimensions=2),
    limits=LIMITS,
)


def refuse(context: grpc.ServicerContext, error: ServiceError) -> NoReturn:
    context.set_trailing_metadata(to_trailers(error, error.message, "r"))
    context.abort(error.code, error.message)


async def query(tmp_path: Path, refusals: list[ServiceError]) -> list[float]:
    """The vector of "abc", of a server that has these refusals first."""

    def embed(request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        if refusals:
            refuse(context, refusals.pop(0))
        items = [pb.EmbedStreamItem(id=i, item=item) for i, item in enumerate(request.inputs)]
        return pb.EmbedResponse(results=[stream_answer(item).result for item in items])

    script = Script(embed=embed)
    script.get_model = lambda request, context: model_pb.GetModelResponse(model=MODEL)
    with scripted_server(script) as server:
        server.start()
        cache = VectorCache(tmp_path / "cache")
        async with AsyncClient(script.address) as client:
            embedder = Embedder(client, await client.model(), cache, chunk_tokens=64)
            try:
                return [float(value) for value in await embedder.query("abc")]
            finally:
                cache.close()


@pytest.mark.parametrize("busy", [QueueFull("full", 0.1), TooLate(9, 1, 0.1)])
async def test_a_busy_server_is_waited_for(tmp_path: Path, busy: ServiceError) -> None:
    refusals = [busy] * 6  # more than gRPC itself tries
    assert await query(tmp_path, refusals) == [3, 1]
    assert not refusals


async def test_what_waiting_does_not_help_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused):
        await query(tmp_path, [ReplyTooLarge(9, 1)] * 6)
