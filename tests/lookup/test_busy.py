"""The service waits for a server that has too much to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest

from client_messages import stream_answer
from front_calls import until
from headstream.access.failure import to_trailers
from headstream.client import AsyncClient
from headstream.lookup import embedder as embedder_module
from headstream.lookup.cache import VectorCache
from headstream.lookup.embedder import IN_FLIGHT, Embedder
from headstream.lookup.errors import ModelRefused
from headstream.server.errors import QueueFull, ReplyTooLarge, ServiceError, TooLate
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import model_service_pb2 as model_pb
from scripted_server import Script, scripted_server

Refusal = Callable[[str], ServiceError | None]

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


@asynccontextmanager
async def embedding(tmp_path: Path, refusal: Refusal) -> AsyncGenerator[Embedder]:
    """An embedder of a server that is asked for each text whether it refuses it."""

    def embed(request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        if (refused := refusal(request.inputs[0].input.text)) is not None:
            refuse(context, refused)
        items = [pb.EmbedStreamItem(id=i, item=item) for i, item in enumerate(request.inputs)]
        return pb.EmbedResponse(results=[stream_answer(item).result for item in items])

    script = Script(embed=embed)
    script.get_model = lambda request, context: model_pb.GetModelResponse(model=MODEL)
    with scripted_server(script) as server, closing(VectorCache(tmp_path / "cache")) as cache:
        server.start()
        async with AsyncClient(script.address) as client:
            yield Embedder(client, await client.model(), cache, chunk_tokens=64)


async def query(tmp_path: Path, refusals: list[ServiceError]) -> list[float]:
    """The vector of "abc", of a server that has these refusals first."""

    def refusal(_: str) -> ServiceError | None:
        return refusals.pop(0) if refusals else None

    async with embedding(tmp_path, refusal) as embedder:
        return [float(value) for value in await embedder.query("abc")]


@pytest.mark.parametrize("busy", [QueueFull("full", 0.1), TooLate(9, 1, 0.1)])
async def test_a_busy_server_is_waited_for(tmp_path: Path, busy: ServiceError) -> None:
    refusals = [busy] * 6  # more than gRPC itself tries
    assert await query(tmp_path, refusals) == [3, 1]
    assert not refusals


async def test_what_waiting_does_not_help_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused):
        await query(tmp_path, [ReplyTooLarge(9, 1)] * 6)


async def test_it_is_not_waited_for_longer_than_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause that is longer than what is left is not begun."""
    with pytest.raises(ModelRefused) as caught:
        await asyncio.wait_for(query(tmp_path, [TooLate(600, 40, 560)]), 20)
    assert caught.value.reason == "DEADLINE_TOO_SHORT"
    monkeypatch.setattr(embedder_module, "BUSY_SECONDS", 0.25)
    refusals: list[ServiceError] = [QueueFull("full", 0.1)] * 6
    with pytest.raises(ModelRefused):
        await query(tmp_path, refusals)
    assert len(refusals) == 3, "two pauses, and no third"


async def test_who_waits_for_the_server_is_in_nobodys_way(tmp_path: Path) -> None:
    """More texts are refused than may be at the server at once, and others are read meanwhile."""
    refused: list[str] = []

    def refusal(text: str) -> ServiceError | None:
        if text == "other" or text in refused:
            return None
        refused.append(text)
        return TooLate(9, 1, 3)

    async with embedding(tmp_path, refusal) as embedder:
        texts = [f"text {number}" for number in range(IN_FLIGHT + 1)]
        queries = [asyncio.create_task(embedder.query(text)) for text in texts]
        await until(lambda: len(refused) == len(texts))
        await embedder.query("other")
        assert not any(task.done() for task in queries)
        await asyncio.gather(*queries)
