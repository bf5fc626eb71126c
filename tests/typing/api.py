"""What users may write against `headstream.client`. Checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal, assert_type

import numpy as np

from headstream.client import (
    AsyncBranch,
    AsyncClient,
    AsyncDecoding,
    AsyncEmbedStream,
    AsyncGeneration,
    Branch,
    Client,
    Continuation,
    Decoding,
    EmbedError,
    EmbedResult,
    EmbedStream,
    FailedItem,
    Fingerprint,
    Generation,
    HeadstreamError,
    InvalidArgument,
    ModelInfo,
    ResourceExhausted,
    RpcError,
    StaticEmbeddings,
    Step,
    StreamBroken,
    TextEmbedding,
    TextScores,
    Timings,
    Tls,
    TokenEmbeddings,
    TokenTable,
    TopLogits,
    Usage,
)

Array = np.ndarray[Any, np.dtype[Any]]


def connecting() -> Iterator[Client]:
    yield Client()
    yield Client("dns:///models.example:443", tls=True, token="secret", timeout=None)
    yield Client("models.example:50051", token="secret", token_in_plaintext=True)
    yield Client("models.example:443", tls="ca.pem", stream_timeout=5)
    yield Client("models.example:443", tls=Path("ca.pem"), connect_timeout=1)
    yield Client("models.example:443", tls=Tls(ca="ca.pem", cert="me.pem", key="me.key"))


def generating(client: Client) -> None:
    generation = client.generate(
        "So long and thanks for all the",
        model="gemma-3-270m",
        max_new_tokens=8,
        logits="top",
        top_logits=5,
        logprobs=True,
        logits_dtype="bfloat16",
        temperature=0.7,
        top_k=40,
        top_p=0.9,
        min_p=0.05,
        typical_p=0.95,
        min_new_tokens=2,
        allowed_token_ids=[3, 4],
        forbidden_token_ids=[5],
        json_schema={"type": "object"},
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logit_bias={3: -1.0},
        seed=1,
        n=3,
        stop=["\n", "."],
        stop_token_ids=[1],
        ignore_eos=True,
        embeddings=[0, -1],
        skip_special_tokens=True,
        timeout=5.0,
    )
    assert_type(generation, Generation)
    with generation as steps:
        for step in steps:
            assert_type(step, Step)
            assert_type(step.index, int)
            assert_type(step.token_id, int)
            assert_type(step.text, str)
            assert_type(step.continuation, int)
            assert_type(step.logprob, float | None)
            assert_type(step.logits, Array | TopLogits | None)
            assert_type(step.embedding, Array | None)
    assert_type(generation.text, str)
    assert_type(generation.finish_reason, Literal["stop", "length", "dead_end"] | None)
    assert_type(generation.continuations, list[Continuation])
    assert_type(generation.read_texts(), list[str])
    assert_type(generation.usage, Usage | None)
    assert_type(generation.timings, Timings | None)
    assert_type(generation.fingerprint, Fingerprint | None)
    assert_type(generation.prompt_ids, list[int])
    assert_type(generation.seed, int | None)
    assert_type(generation.request_id, str)


def ways_to_say_what(client: Client) -> None:
    client.generate([2, 5, 9], logits="full", stop="end", resume=3)
    client.generate("a", logits=[7, 8], embeddings=None)
    client.generate([{"role": "user", "content": "a"}], regex="a+")
    client.generate("a", logits="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def decoding(client: Client) -> None:
    with client.decode("So long and", model="gemma-3-270m", max_tokens=64, timeout=5.0) as d:
        assert_type(d, Decoding[Array])
        assert_type(d.logits, Array)
        assert_type(d.append([1, 2]), Array)
        assert_type(d.fork(), Branch[Array])
        assert_type(d.append_many([d.fork(), d], [[1], [2, 3]]), list[Array])
        d.rollback(2)
        assert_type(d.length, int)
        assert_type(d.token_ids, list[int])
    assert_type(client.decode([2, 5], logits=[7, 8], logprobs=True), Decoding[Array])
    top = client.decode("a", logits="top", top_logits=3, logits_dtype="float16")
    assert_type(top, Decoding[TopLogits])
    assert_type(top.append([1]), TopLogits)
    with top.fork() as branch:
        assert_type(branch.logits, TopLogits)
    client.decode("a", logits="none")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def embedding(client: Client) -> None:
    assert_type(client.embed("a"), Array)
    assert_type(client.embed(["a", [1, 2]], pooling="last", layer=3, dtype="int8"), Array)
    assert_type(client.embed(["a"], prompt_name="query", normalize=None, timeout=3), Array)
    assert_type(client.embed_spans("abc", [(0, 1), (1, 3)], unit="byte", prompt="a: "), Array)
    for result in client.embed_each(["a"], spans=[[(0, 1)]], dimensions=64, truncate=True):
        assert_type(result, EmbedResult)
        if isinstance(result, TextEmbedding):
            assert_type(result.to_float32(), Array)
    tokens = client.embed_tokens("a", layers=[0, -1], dtype="float16")
    assert_type(tokens, TokenEmbeddings)
    assert_type(tokens.tokens, list[str])
    assert_type(tokens.surfaces, list[bytes])
    assert_type(tokens.offsets, list[tuple[int, int]])
    assert_type(tokens.vectors, Array)
    assert_type(client.lookup([1, 2]), StaticEmbeddings)


def scoring(client: Client) -> None:
    scores = client.score("a", logits="top", top_logits=3, logprobs=True, window_stride=512)
    assert_type(scores, TextScores)
    assert_type(scores.logprobs, Array)
    assert_type(scores.logits, Array | TopLogits | None)
    assert_type(scores.perplexity, float)
    assert_type(client.score([1, 2, 3]), TextScores)
    assert_type(client.score(["a", [1, 2]], logits_dtype="float16"), list[TextScores])
    assert_type(client.score([[1, 2], [3, 4]], timeout=5.0), list[TextScores])
    client.score("a", stride=512)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def other_calls(client: Client) -> None:
    assert_type(client.tokenize("a"), TokenTable)
    assert_type(client.detokenize([1, 2]), str)
    assert_type(client.models(), list[ModelInfo])
    assert_type(client.model("a").sizes.layers, int)
    assert_type(client.model().can("Generate"), bool)


def errors(client: Client) -> float | None:
    try:
        client.embed("a")
    except InvalidArgument as error:
        assert_type(error.field, str)
    except ResourceExhausted as error:
        return error.retry_after
    except StreamBroken as error:
        assert_type(error.index, int)
    except RpcError as error:
        assert_type(error.code, str)
        assert_type(error.reason, str)
        assert_type(error.request_id, str)
    except EmbedError as error:
        assert_type(error.items[0].index, int)
    except HeadstreamError:
        pass
    return None


async def asynchronous() -> None:
    async with AsyncClient("localhost:50051", token="secret") as client:
        generation = client.generate("a", logits="full")
        assert_type(generation, AsyncGeneration)
        async for step in generation:
            assert_type(step, Step)
        assert_type(await generation.read_texts(), list[str])
        await generation.aclose()
        async with client.decode("a", logits="top") as d:
            assert_type(d, AsyncDecoding[TopLogits])
            assert_type(await d.append([1]), TopLogits)
            assert_type(await d.fork(), AsyncBranch[TopLogits])
            await d.rollback(1)
        assert_type(await client.embed("a"), Array)
        assert_type(await client.embed_tokens("a"), TokenEmbeddings)
        assert_type(await client.score("a"), TextScores)
        assert_type(await client.score(["a", "b"]), list[TextScores])
        assert_type(await client.models(), list[ModelInfo])


def embedding_many(client: Client) -> None:
    stream = client.embed_stream(open("texts.txt"), model="m", look_ahead=9, pooling="last")  # noqa: SIM115, PTH123
    assert_type(stream, EmbedStream[int])
    for number, vector in stream:
        assert_type(number, int)
        assert_type(vector, Array | FailedItem)
    named = client.embed_stream(((name, "text") for name in str(1)), timeout=5.0)
    assert_type(named, EmbedStream[str])
    assert_type(named.unanswered, list[str])
    assert_type(named.fingerprint, Fingerprint | None)
    assert_type(client.embed_stream([[1, 2], [3]]), EmbedStream[int])


async def embedding_many_async(client: AsyncClient, texts: AsyncIterator[str]) -> None:
    assert_type(client.embed_stream(texts), AsyncEmbedStream[int])
    async with client.embed_stream([(str(1), "text")], dimensions=3) as stream:
        async for name, vector in stream:
            assert_type(name, str)
            assert_type(vector, Array | FailedItem)
