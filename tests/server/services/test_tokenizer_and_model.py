from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

import front_fakes
import front_values
from front_fakes import Running
from front_values import MAX_MODEL_LEN
from headstream.server.engine.state import EngineState
from headstream.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    tokenizer_service_pb2,
    tokenizer_service_pb2_grpc,
)

TEXT = "naïve 日本 fish"


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(checkpoint) as front:
        yield front


async def tokenize(running: Running, text: str, *, skip: bool = False, model: str = "") -> Any:
    stub: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(running.channel)
    request = tokenizer_service_pb2.TokenizeRequest(
        model=model, text=text, skip_special_tokens=skip
    )
    return await stub.Tokenize(request)


async def detokenize(running: Running, ids: list[int], **fields: Any) -> str:
    stub: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(running.channel)
    reply = await stub.Detokenize(tokenizer_service_pb2.DetokenizeRequest(ids=ids, **fields))
    text: str = reply.text
    return text


async def describe(running: Running) -> model_service_pb2.Model:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(running.channel)
    reply = await stub.GetModel(model_service_pb2.GetModelRequest())
    model: model_service_pb2.Model = reply.model
    return model


async def test_there_and_back(running: Running) -> None:
    table = (await tokenize(running, TEXT)).tokens
    assert b"".join(table.surfaces) == b"<bos>" + TEXT.encode()
    assert await detokenize(running, list(table.ids)) == TEXT
    with_specials = await detokenize(running, list(table.ids), skip_special_tokens=False)
    assert with_specials == "<bos>" + TEXT
    bare = (await tokenize(running, TEXT, skip=True)).tokens
    assert list(bare.ids) == list(table.ids[1:])


async def test_detokenize_tells_the_bytes_of_each_token(running: Running) -> None:
    table = (await tokenize(running, TEXT)).tokens
    stub: Any = tokenizer_service_pb2_grpc.TokenizerServiceStub(running.channel)
    request = tokenizer_service_pb2.DetokenizeRequest(ids=table.ids)
    reply = await stub.Detokenize(request)
    assert list(reply.surfaces) == list(table.surfaces)  # `<bos>` too, which the text leaves out
    assert b"".join(reply.surfaces[1:]) == reply.text.encode()


@pytest.mark.parametrize("extra", [0, 1])
async def test_text_size(running: Running, extra: int) -> None:
    text = "x" * (8 * MAX_MODEL_LEN + extra)
    if not extra:
        await tokenize(running, text)
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tokenize(running, text)
    assert caught.value.details() == "text: has 513 bytes; the limit is 512"


async def test_ids_outside_the_vocabulary(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await detokenize(running, [0, 100_000])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ids[1]" in (caught.value.details() or "")


async def test_a_model_by_name(running: Running) -> None:
    assert (await tokenize(running, "a", model="tiny")).tokens.ids
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tokenize(running, "a", model="nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_get_model(running: Running) -> None:
    model = await describe(running)
    assert model.state == model_service_pb2.MODEL_STATE_SERVING
    assert model.limits.max_model_tokens == MAX_MODEL_LEN
    assert model.limits.max_text_bytes == 8 * MAX_MODEL_LEN
    assert model.sizes.layers == front_values.N_LAYERS
    assert list(model.eos_token_ids) == [1]
    choices = model.embedding_choices
    assert (len(choices.poolings), choices.max_dimensions) == (4, front_values.D_MODEL)
    assert set(choices.dtypes) == {1, 2, 3, 4, 5}, "all but INT32"
    assert (model.fingerprint.dtype, model.fingerprint.quantization) == ("float32", "none")
    served = {capability.method for capability in model.capabilities if capability.served}
    unserved = {capability.method for capability in model.capabilities if not capability.served}
    assert {
        "headstream.v1.LogitsService/Generate",
        "headstream.v1.LogitsService/Score",
        "headstream.v1.EmbeddingsService/Embed",
        "headstream.v1.ModelService/GetModel",
    } <= served
    assert not unserved


async def test_states(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, load=False) as running:
        assert (await describe(running)).state == model_service_pb2.MODEL_STATE_LOADING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tokenize(running, "a")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await running.front.load(lambda _: None)
        running.handle.set_state(EngineState.FAILED)
        assert (await describe(running)).state == model_service_pb2.MODEL_STATE_FAILED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tokenize(running, "a")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
