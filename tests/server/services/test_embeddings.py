from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

import front_fakes
import tiny_tokenizers
from front_fakes import Job, Running
from front_values import D_MODEL, MAX_MODEL_LEN
from headstream.server.errors import EngineUnavailable
from headstream.server.tokenizer import TextTokenizer
from headstream.server.wire.tensors import CHUNK_BYTES
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import embeddings_service_pb2_grpc, tensor_pb2, types_pb2

TOKENIZER = TextTokenizer(tiny_tokenizers.byte_level_tokenizer())


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(checkpoint) as front:
        yield front


def stub(running: Running) -> Any:
    return embeddings_service_pb2_grpc.EmbeddingsServiceStub(running.channel)


def item(text: str, *spans: tuple[int, int]) -> pb.EmbedInput:
    return pb.EmbedInput(
        input=types_pb2.Input(text=text), spans=[pb.Span(start=s, end=e) for s, e in spans]
    )


async def embed(running: Running, *inputs: pb.EmbedInput, **options: Any) -> pb.EmbedResponse:
    request = pb.EmbedRequest(inputs=inputs, options=pb.EmbedOptions(**options))
    reply: pb.EmbedResponse = await stub(running).Embed(request, timeout=60)
    return reply


def values(result: pb.EmbedResult) -> np.ndarray:
    tensor = result.embedding.vectors
    return np.frombuffer(tensor.data, "<f4").reshape(tuple(tensor.shape))


async def test_one_vector_per_text_in_order(running: Running) -> None:
    reply = await embed(running, item("fish"), item("The chicken"), normalize=False)
    assert [values(result).shape for result in reply.results] == [(D_MODEL,)] * 2
    for result, text in zip(reply.results, ("fish", "The chicken"), strict=True):
        count = len(TOKENIZER.encode(text))
        assert result.embedding.num_tokens == count
        assert values(result)[0] == np.mean(range(1, count)), "the first is special"
    assert reply.usage.input_tokens == sum(r.embedding.num_tokens for r in reply.results)
    assert reply.usage.tensor_bytes == 2 * D_MODEL * 4
    assert reply.fingerprint.model == "tiny"
    assert reply.timings.first_output_ns == 0


async def test_a_bad_text_fails_alone(running: Running) -> None:
    long = item("x" * 100)
    reply = await embed(running, item("fish"), item(""), long, item("a", (5, 6)), item("b"))
    assert [result.WhichOneof("result") for result in reply.results] == [
        "embedding",
        "error",
        "error",
        "error",
        "embedding",
    ]
    assert reply.results[1].error.message == "inputs[1].input.text: is empty"
    assert "the model takes 64" in reply.results[2].error.message
    assert "inputs[3].spans[0]" in reply.results[3].error.message
    assert {result.error.code for result in reply.results[1:4]} == {3}
    assert len(running.handle.jobs) == 2


async def test_spans_pool_their_own_tokens(running: Running) -> None:
    text = "The chicken crossed"
    reply = await embed(running, item(text, (0, 3), (4, 11)), normalize=False)
    assert values(reply.results[0]).shape == (2, D_MODEL)
    [job] = running.handle.jobs
    assert job.outputs.pool is not None
    covered = ["".join(surfaces(text, span)) for span in job.outputs.pool.spans]
    assert covered == ["The", " chicken"]


def surfaces(text: str, positions: tuple[int, ...]) -> list[str]:
    tokens = TOKENIZER.encode(text)
    return [tokens.surfaces[position].decode() for position in positions]


def ids(*values: int) -> pb.EmbedInput:
    return pb.EmbedInput(input=types_pb2.Input(token_ids=types_pb2.TokenIds(ids=values)))


BAD = [
    (pb.EmbedInput(), 3, "input: set text, token_ids or chat"),
    (item(""), 3, "input.text: is empty"),
    (item("é" * 257), 3, "input.text: has 514 bytes; the limit is 512"),
    (item("x" * 100), 3, "the model takes 64"),
    (ids(), 3, "input.token_ids: is empty"),
    (ids(40, 100_000), 3, "input.token_ids.ids[1]: 100000 is not in [0, "),
    (ids(*[40] * 65), 3, "input: has 65 tokens; the model takes 64"),
    (ids(0, 0), 3, "no token is left to pool: all are special"),
    (item("fish", (0, 2), (3, 3)), 3, "spans[1]: [3, 3) is empty"),
    (item("fish", (3, 1)), 3, "spans[0]: [3, 1) is empty"),
    (item("fish", (4, 9)), 3, "spans[0]: [4, 9) holds no token"),
    (
        pb.EmbedInput(
            input=types_pb2.Input(
                chat=types_pb2.Chat(messages=[types_pb2.ChatMessage(role="user", content="a")])
            )
        ),
        9,
        "input.chat: the model has no chat template",
    ),
]


@pytest.mark.parametrize(("bad", "code", "message"), BAD, ids=[message for *_, message in BAD])
async def test_every_kind_of_bad_item_fails_alone(
    running: Running, bad: pb.EmbedInput, code: int, message: str
) -> None:
    before, failed, after = (await embed(running, item("a"), bad, item("b"))).results
    assert before.HasField("embedding")
    assert after.HasField("embedding")
    assert failed.error.code == code
    assert failed.error.message.startswith("inputs[1]")
    assert message in failed.error.message
    assert failed.error.reason == {3: "INVALID_FIELD", 9: "NO_CHAT_TEMPLATE"}[code]
    assert len(running.handle.jobs) == 2


async def test_int8_brings_its_scales(running: Running) -> None:
    reply = await embed(
        running,
        item("fish", (0, 1), (1, 4)),
        item("b"),
        dtype=tensor_pb2.DATA_TYPE_INT8,
        normalize=False,
        dimensions=5,
    )
    spans, whole = (result.embedding for result in reply.results)
    plain = await embed(running, item("fish", (0, 1), (1, 4)), normalize=False, dimensions=5)
    assert list(spans.vectors.shape) == [2, 5]
    codes = np.frombuffer(spans.vectors.data, "i1").reshape(2, 5)
    np.testing.assert_allclose(
        codes * np.array(spans.scales)[:, None], values(plain.results[0]), rtol=1e-6
    )
    assert list(whole.vectors.shape) == [5]
    assert len(whole.scales) == 1
    assert reply.usage.tensor_bytes == 3 * (5 + 4)


async def test_dimensions_beyond_the_model_name_the_limit(running: Running) -> None:
    for dimensions in (0, D_MODEL + 1):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await embed(running, item("fish"), dimensions=dimensions)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == f"options.dimensions: {dimensions} is not in [1, 8]"


async def test_truncation_is_told(running: Running) -> None:
    reply = await embed(running, item("x" * 100), item("fish"), truncate=True)
    assert [result.embedding.truncated for result in reply.results] == [True, False]
    assert reply.results[0].embedding.num_tokens == MAX_MODEL_LEN


@pytest.mark.parametrize(("count", "fine"), [(0, False), (1, True), (64, True), (65, False)])
async def test_number_of_texts(running: Running, count: int, fine: bool) -> None:
    inputs = [item("a")] * count
    if fine:
        assert len((await embed(running, *inputs)).results) == count
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await embed(running, *inputs)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"inputs: has {count} entries; allowed are 1 to 64"


async def test_an_engine_that_dies_fails_the_request(running: Running) -> None:
    def script(job: Job) -> None:
        job.stream.fail(EngineUnavailable("gone"))

    running.handle.script = script
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await embed(running, item("a"), item("b"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_vectors_that_do_not_fit_a_message_are_refused(running: Running) -> None:
    spans = [(0, 1)] * (4 * CHUNK_BYTES // (D_MODEL * 4))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await embed(running, item("a", *spans))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert running.handle.jobs == []


async def tokens_of(running: Running, **fields: Any) -> list[pb.EmbedTokensResponse]:
    request = pb.EmbedTokensRequest(**fields)
    return [reply async for reply in stub(running).EmbedTokens(request, timeout=60)]


async def test_a_table_then_rows_then_an_end(running: Running) -> None:
    text = "naïve fish"
    layers = types_pb2.LayerSelection(layers=[-1, 0, -2])
    replies = await tokens_of(running, input=types_pb2.Input(text=text), layers=layers)
    start, *chunks, end = replies
    table = start.start.tokens
    expected = TOKENIZER.encode(text)
    assert list(table.ids) == list(expected.ids)
    assert list(table.surfaces) == list(expected.surfaces)
    assert list(zip(table.byte_starts, table.byte_ends, strict=True)) == list(expected.byte_ranges)
    assert list(table.special) == list(expected.special)
    assert list(start.start.layers) == [-1, 0, 2]
    found = [(chunk.chunk.layer_index, chunk.chunk.start) for chunk in chunks]
    assert found == [(0, 0), (1, 0), (2, 0)]
    row = [np.frombuffer(chunk.chunk.rows.data, "<f4")[0] for chunk in chunks]
    assert row == [-1.0, 0.0, 2.0]
    sent = sum(len(chunk.chunk.rows.data) for chunk in chunks)
    assert start.start.tensor_bytes == end.end.usage.tensor_bytes == sent


async def test_rows_are_cut_at_one_mebibyte(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, d_model=8192) as running:
        ids = types_pb2.TokenIds(ids=[40] * MAX_MODEL_LEN)
        replies = await tokens_of(running, input=types_pb2.Input(token_ids=ids))
    chunks = [reply.chunk for reply in replies if reply.HasField("chunk")]
    assert [chunk.start for chunk in chunks] == [0, 32]
    assert all(len(chunk.rows.data) == CHUNK_BYTES for chunk in chunks)


async def test_lookup_takes_no_special_tokens(running: Running) -> None:
    request = pb.LookupEmbeddingsRequest(input=types_pb2.Input(text="fish"))
    reply = await stub(running).LookupEmbeddings(request)
    ids = TOKENIZER.encode("fish", skip_special=True).ids
    assert list(reply.tokens.ids) == list(ids)
    assert list(reply.rows.shape) == [len(ids), D_MODEL]
    assert running.handle.jobs == []
