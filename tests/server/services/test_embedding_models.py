"""Models that bring their own way of making vectors, and those that do nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

import front_calls
import front_fakes
import tiny_tokenizers
from front_fakes import Job, Running
from front_values import MAX_MODEL_LEN
from headstream.model.outputs import EmbeddingDefaults
from headstream.server.tokenizer import TextTokenizer
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import (
    embeddings_service_pb2_grpc,
    logits_service_pb2,
    logits_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    types_pb2,
)

TOKENIZER = TextTokenizer(tiny_tokenizers.byte_level_tokenizer())
DEFAULTS = EmbeddingDefaults(
    pooling="mean",
    pool_special=True,
    normalize=False,
    prompts={"query": "Find: ", "document": ""},
    default_prompt="query",
)
LOGITS = ("Generate", "Score", "Decode")


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(
        checkpoint, unembeds=False, causal=False, embedding=DEFAULTS
    ) as front:
        yield front


def item(text: str, *spans: tuple[int, int]) -> pb.EmbedInput:
    return pb.EmbedInput(
        input=types_pb2.Input(text=text), spans=[pb.Span(start=s, end=e) for s, e in spans]
    )


async def embed(running: Running, *inputs: pb.EmbedInput, **options: Any) -> list[pb.EmbedResult]:
    stub: Any = embeddings_service_pb2_grpc.EmbeddingsServiceStub(running.channel)
    request = pb.EmbedRequest(inputs=inputs, options=pb.EmbedOptions(**options))
    reply: pb.EmbedResponse = await stub.Embed(request, timeout=60)
    return list(reply.results)


def last_job(running: Running) -> tuple[Job, tuple[tuple[int, ...], ...]]:
    """What the engine was asked last, and which positions it pools."""
    job = running.handle.jobs[-1]
    assert job.outputs.pool is not None
    return job, job.outputs.pool.spans


async def describe(running: Running) -> model_service_pb2.Model:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(running.channel)
    reply = await stub.GetModel(model_service_pb2.GetModelRequest())
    model: model_service_pb2.Model = reply.model
    return model


# --- Its own way ---


async def test_what_is_not_said_is_done_in_the_models_own_way(running: Running) -> None:
    [result] = await embed(running, item("fish"))
    job, spans = last_job(running)
    assert job.token_ids == TOKENIZER.encode("Find: fish").ids
    assert spans == (tuple(range(len(job.token_ids))),), "special tokens too"
    vector = np.frombuffer(result.embedding.vectors.data, "<f4")
    assert vector[0] == np.mean(spans[0]), "not normalized"
    assert result.embedding.num_tokens == len(job.token_ids)


async def test_what_is_said_wins(running: Running) -> None:
    [result] = await embed(
        running, item("fish"), pooling=pb.POOLING_MEAN, normalize=True, prompt_text=""
    )
    job, spans = last_job(running)
    assert job.token_ids == TOKENIZER.encode("fish").ids
    assert spans == (tuple(range(1, len(job.token_ids))),), "MEAN leaves special tokens out"
    assert np.linalg.norm(np.frombuffer(result.embedding.vectors.data, "<f4")) == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "prompt"),
    [({"prompt_name": "document"}, ""), ({"prompt_text": "naïve 🐔: "}, "naïve 🐔: ")],
)
async def test_prompts_by_name_and_as_text(
    running: Running, options: dict[str, str], prompt: str
) -> None:
    await embed(running, item("The chicken crossed"), **options)
    job, _ = last_job(running)
    assert job.token_ids == TOKENIZER.encode(prompt + "The chicken crossed").ids


@pytest.mark.parametrize("unit", [pb.OFFSET_UNIT_BYTE, pb.OFFSET_UNIT_CHAR])
async def test_spans_count_the_text_alone(running: Running, unit: pb.OffsetUnit.ValueType) -> None:
    prompt, text = "naïve 🐔: ", "The chicken crossed"
    await embed(running, item(text, (0, 3), (4, 11)), prompt_text=prompt, offset_unit=unit)
    tokens = TOKENIZER.encode(prompt + text)
    _, spans = last_job(running)
    covered = [b"".join(tokens.surfaces[i] for i in span).decode() for span in spans]
    assert [part.strip() for part in covered] == ["The", "chicken"]


async def test_an_unknown_prompt_is_named(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await embed(running, item("fish"), prompt_name="passage")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    expected = "options.prompt_name: 'passage' is no prompt of the model (known: query, document)"
    assert caught.value.details() == expected


async def test_prompts_go_with_texts_only(running: Running) -> None:
    ids = pb.EmbedInput(input=types_pb2.Input(token_ids=types_pb2.TokenIds(ids=[40, 41])))
    [plain] = await embed(running, ids)
    assert plain.HasField("embedding"), "the default prompt is left out"
    assert last_job(running)[0].token_ids == (40, 41)
    asked, text = await embed(running, ids, item("fish"), prompt_name="query")
    assert asked.error.message == (
        "options.prompt_name: goes with texts, not with token ids or chats"
    )
    assert text.HasField("embedding")


async def test_a_prompt_counts_towards_the_longest_text(running: Running) -> None:
    fits = "x" * (MAX_MODEL_LEN - 1)  # beside the beginning mark; no letters merge
    count = len(TOKENIZER.encode(fits))
    assert count <= MAX_MODEL_LEN < count + len(TOKENIZER.encode("Find: ")) - 1
    [bare] = await embed(running, item(fits), prompt_text="")
    [prompted] = await embed(running, item(fits))
    assert bare.HasField("embedding")
    assert f"the model takes {MAX_MODEL_LEN}" in prompted.error.message
    [cut] = await embed(running, item(fits), truncate=True)
    assert (cut.embedding.truncated, cut.embedding.num_tokens) == (True, MAX_MODEL_LEN)


# --- Nothing but vectors ---


def logits_call(running: Running, method: str) -> Any:
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(running.channel)
    prompt = types_pb2.Input(text="fish")
    if method == "Generate":
        return stub.Generate(logits_service_pb2.GenerateRequest(prompt=prompt))
    if method == "Score":
        return stub.Score(logits_service_pb2.ScoreRequest(inputs=[prompt]))
    opening = logits_service_pb2.DecodeOpen(prompt=prompt)
    return stub.Decode(iter([logits_service_pb2.DecodeRequest(open=opening)]))


@pytest.mark.parametrize("method", LOGITS)
async def test_what_needs_logits_is_refused(running: Running, method: str) -> None:
    code, message, reason = await front_calls.failure(logits_call(running, method))
    assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_SERVED")
    assert message == f"{method}: 'tiny' (TinyForCausalLM) gives no logits, only vectors"
    assert running.handle.jobs == []


async def test_the_model_says_so(running: Running, checkpoint: Path) -> None:
    model = await describe(running)
    served = {c.method.rpartition("/")[2]: c.served for c in model.capabilities}
    assert not any(served[method] for method in LOGITS)
    assert served["Embed"]
    assert served["EmbedTokens"]
    assert model.bidirectional
    assert model.limits.max_new_tokens == 0
    assert model.embedding == model_service_pb2.EmbeddingDefaults(
        pooling=pb.POOLING_MEAN,
        pool_special_tokens=True,
        pool_prompt=True,
        normalize=False,
        prompts={"query": "Find: ", "document": ""},
        default_prompt_name="query",
    )
    async with front_fakes.running_front(checkpoint) as causal:
        model = await describe(causal)
        assert all(c.served for c in model.capabilities if "LogitsService" in c.method)
        assert not model.bidirectional
        assert model.embedding == model_service_pb2.EmbeddingDefaults(
            pooling=pb.POOLING_MEAN, pool_prompt=True, normalize=True
        )
