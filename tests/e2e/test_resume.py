"""Streams that break: servers that go on where another stopped, to the bit."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from headstream.client import AsyncClient, Step, StreamBroken
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2
from server_process import Server, running_server

PROMPT = "The chicken didn't cross"
FLAGS = ("--dtype", "float32", "--kv-cache-bytes", str(64 << 20))
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 800}
SAMPLED: dict[str, Any] = {
    "temperature": 1.5,
    "top_p": 0.9,
    "repetition_penalty": 1.2,
    "frequency_penalty": 0.3,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server that lives has logged."""
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def server(tiny_model: Path, log: Path) -> Generator[Server]:
    """One that lives."""
    with running_server(tiny_model, *FLAGS, stderr=log) as running:
        yield running


# --- By hand: whatever the break, the rest is the rest ---


def generate(server: Server, generated: list[int], **fields: Any) -> list[pb.GenerateResponse]:
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(server.channel)
    request = pb.GenerateRequest(
        prompt=types_pb2.Input(text=PROMPT), generated_token_ids=generated, **fields
    )
    return list(stub.Generate(request, timeout=60))


def refusal(server: Server, generated: list[int], **fields: Any) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        generate(server, generated, **fields)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(error.details())


def tokens(replies: list[pb.GenerateResponse]) -> list[int]:
    return [reply.step.token_id for reply in replies if reply.HasField("step")]


def text(replies: list[pb.GenerateResponse]) -> str:
    return "".join(reply.step.text or reply.end.text for reply in replies)


def sampling(**fields: Any) -> pb.SamplingParams:
    return pb.SamplingParams(
        seed=3, temperature=1.5, repetition_penalty=1.2, frequency_penalty=0.3, **fields
    )


STOP = pb.StopConditions(max_new_tokens=40, min_new_tokens=5, ignore_eos=True)
CASES: dict[str, dict[str, Any]] = {
    "sampled": {"sampling": sampling(), "stop": STOP},
    "vectors": {
        "sampling": sampling(),
        "stop": STOP,
        "embeddings": pb.GeneratedEmbeddings(layers=types_pb2.LayerSelection(layers=[1, -1])),
    },
    "schema": {
        "sampling": sampling(
            constraint=pb.Constraint(
                json_schema=json.dumps(
                    {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string", "maxLength": 9},
                            "age": {"type": "integer", "maximum": 99, "minimum": 0},
                        },
                        "required": ["name", "age"],
                        "additionalProperties": False,
                    }
                )
            )
        ),
        "stop": pb.StopConditions(max_new_tokens=200),
    },
}


def without_steps(replies: list[pb.GenerateResponse], count: int) -> list[pb.GenerateResponse]:
    """All but the start and the first ``count`` steps and their vectors."""
    parts = [reply for reply in replies if not reply.HasField("start")]
    return [
        part
        for part in parts
        if not (part.HasField("step") and part.step.index < count)
        and not (part.HasField("embedding") and part.embedding.index < count)
    ]


def bare(replies: list[pb.GenerateResponse]) -> list[pb.GenerateResponse]:
    """Without what a request used."""
    for reply in replies:
        if reply.HasField("end"):
            reply.end.ClearField("usage")
            reply.end.ClearField("timings")
    return replies


@pytest.mark.parametrize("case", CASES)
def test_whatever_the_break_the_rest_follows(server: Server, case: str) -> None:
    fields = CASES[case] | {"logits": pb.LogitsOptions(mode=pb.LOGITS_MODE_FULL)}
    whole = bare(generate(server, [], **fields))
    ids = tokens(whole)
    assert len(ids) > 12
    for cut in {*range(0, len(ids), 4), len(ids) - 1}:
        rest = generate(server, ids[:cut], **fields)
        usage = rest[-1].end.usage
        assert usage.output_tokens == len(ids) - cut
        assert usage.input_tokens == len(rest[0].start.prompt.ids) + cut
        assert usage.tensor_bytes <= rest[0].start.max_tensor_bytes
        assert without_steps(bare(rest), 0) == without_steps(whole, cut), f"cut at {cut}"


def test_a_stop_string_over_the_break_is_met(server: Server) -> None:
    """The text that was held back before it comes behind it, and no more."""
    fields: dict[str, Any] = {"sampling": sampling()}
    free = generate(server, [], stop=STOP, **fields)
    surfaces = [reply.step.text for reply in free if reply.HasField("step")]
    middle = next(i for i in range(10, 40) if re.fullmatch(r"[!-~]+", "".join(surfaces[i : i + 3])))
    stop_string = "".join(surfaces[middle : middle + 3])
    stop = pb.StopConditions(strings=[stop_string])
    stop.MergeFrom(STOP)
    whole = generate(server, [], stop=stop, **fields)
    assert whole[-1].end.stop_string == stop_string
    ids = tokens(whole)
    assert len(ids) < 40
    for cut in range(len(ids)):
        rest = generate(server, ids[:cut], stop=stop, **fields)
        told = "".join(reply.step.text for reply in whole[1 : 1 + cut])
        assert told + text(rest) == text(whole)
        assert rest[-1].end.stop_string == stop_string
    assert "hold the stop string" in refusal(server, ids, stop=stop, **fields)


def test_what_was_generated_is_more_than_a_longer_prompt(server: Server) -> None:
    """Negative control: draws, penalties and constraints would begin anew."""
    for case in ("sampled", "schema"):
        fields = CASES[case]
        whole = generate(server, [], **fields)
        ids, prompt = tokens(whole), list(whole[0].start.prompt.ids)
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(server.channel)
        longer = types_pb2.Input(token_ids=types_pb2.TokenIds(ids=prompt + ids[:6]))
        rest = list(stub.Generate(pb.GenerateRequest(prompt=longer, **fields), timeout=60))
        assert tokens(rest)[: len(ids) - 6] != ids[6:]


def test_what_had_ended_is_refused(server: Server, log: Path) -> None:
    """And told to its caller alone: it is no fault of the server's."""
    stop = pb.StopConditions(max_new_tokens=4, token_ids=[9])
    assert refusal(server, [7, 9], stop=stop) == "generated_token_ids[1]: 9 is a stop token"
    assert refusal(server, [7, 1], stop=stop) == "generated_token_ids[1]: 1 is a stop token"
    schema = CASES["schema"]
    ids = tokens(generate(server, [], **schema))
    expected = "generated_token_ids: end the text that sampling.constraint admits"
    assert refusal(server, ids, **schema).startswith(expected)
    assert refusal(server, [*ids[:3], ids[0]], **schema).startswith(expected)
    logged = log.read_text()
    assert logged.count("INVALID_ARGUMENT") >= 3  # the last one may still be on its way
    assert "sequence failed" not in logged


# --- With the client: a server dies ---


def running(server: Server) -> float:
    return server.metrics().get(("sequences_running", "tiny"), 0.0)


async def begin_on(server: Server, client: AsyncClient, **options: Any) -> tuple[Any, list[Step]]:
    """A continuation that this server of several computes, and its first step."""
    for _ in range(20):  # they take turns
        before = running(server)
        generation = client.generate(PROMPT, timeout=120, **options)
        first = await anext(generation)
        if running(server) > before:
            return generation, [first]
        await generation.aclose()
    raise AssertionError("the server is never asked")


async def rest_of(generation: Any, steps: list[Step]) -> tuple[list[Step], Any]:
    return [*steps, *[step async for step in generation]], generation


def told(steps: list[Step]) -> list[tuple[Any, ...]]:
    """Everything that was told of each step, to the bit."""
    rows = [np.asarray(getattr(step.logits, "values", step.logits)).tobytes() for step in steps]
    vectors = [np.asarray(step.embedding).tobytes() for step in steps]
    tokens = [(step.index, step.token_id, step.text, step.logprob) for step in steps]
    return list(zip(tokens, rows, vectors, strict=True))


async def test_a_killed_server_is_not_noticed(tiny_model: Path, server: Server) -> None:
    """Sampled with penalties, vectors, a schema, a stop string; seeds that a server drew."""
    long: dict[str, Any] = SAMPLED | {"max_new_tokens": 1200}
    async with AsyncClient(server.address) as lone:
        free, _ = await rest_of(lone.generate(PROMPT, seed=5, **long), [])
        middle = "".join(step.text for step in free[:900])
        late = "".join(step.text for step in free[900:])
        stop = next(late[i : i + 4] for i in range(9, 200) if late[i : i + 4] not in middle)
        variants: list[dict[str, Any]] = [
            long | {"logits": "full"},
            long | {"embeddings": [1, -1]},
            {"json_schema": NUMBERS, "temperature": 1.0, "max_new_tokens": 1200, "logits": "top"},
            long | {"stop": stop, "seed": 5},
        ]
        with running_server(tiny_model, *FLAGS) as doomed:
            address = f"ipv4:{doomed.address},{server.address}"
            async with AsyncClient(address) as client:
                begun = [await begin_on(doomed, client, resume=1, **each) for each in variants]
                requests = [generation.request_id for generation, _ in begun]
                without_leave = await begin_on(doomed, client, **long)
                doomed.process.send_signal(signal.SIGKILL)
                resumed = await asyncio.gather(*(rest_of(*each) for each in begun))
                with pytest.raises(StreamBroken):
                    await rest_of(*without_leave)
        unbroken = await asyncio.gather(
            *(
                rest_of(lone.generate(PROMPT, **variant | {"seed": generation.seed}), [])
                for (_, generation), variant in zip(resumed, variants, strict=True)
            )
        )
        for (steps, generation), (expected, whole), request in zip(
            resumed, unbroken, requests, strict=True
        ):
            assert generation.request_id != request, "it was not broken"
            assert told(steps) == told(expected)
            assert generation.text == whole.text
            assert generation.finish_reason == whole.finish_reason
            assert generation.stop_string == whole.stop_string
        assert resumed[3][1].stop_string == stop
