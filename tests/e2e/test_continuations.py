"""Several continuations of one prompt through a real server and a real client."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstream.client import AsyncClient, Client, Continuation, InvalidArgument, Step
from server_process import Server, running_server

PROMPT = "The chicken didn't cross the road"
DRAWN: dict[str, Any] = {"temperature": 1.5, "seed": 11, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Generator[Server]:
    with running_server(tiny_model, "--dtype", "float32", "--max-continuations", "8") as server:
        yield server


@pytest.fixture
def client(running: Server) -> Generator[Client]:
    with Client(running.address) as client:
        yield client


def read(
    client: Client, options: dict[str, Any], **others: Any
) -> list[tuple[Continuation, list[Step]]]:
    """Each continuation with its steps."""
    generation = client.generate(PROMPT, **options, **others)
    steps: dict[int, list[Step]] = defaultdict(list)
    for step in generation:
        steps[step.continuation].append(step)
    return [(each, steps[each.index]) for each in generation.continuations]


def bits(steps: list[Step]) -> list[tuple[int, float | None, bytes, bytes]]:
    """Everything a step holds."""
    found: list[tuple[int, float | None, bytes, bytes]] = []
    for step in steps:
        assert isinstance(step.logits, np.ndarray)
        assert step.embedding is not None
        parts = (step.logits.tobytes(), step.embedding.tobytes())
        found.append((step.token_id, step.logprob, *parts))
    return found


def test_each_is_what_its_seed_gives_alone(client: Client) -> None:
    """Tokens, log-probabilities, rows and vectors, bit for bit."""
    outputs: dict[str, Any] = {"logits": "full", "embeddings": [0, -1], "ignore_eos": True}
    together = read(client, DRAWN, n=4, **outputs)
    assert len({each.text for each, _ in together}) == 4
    for each, steps in together:
        [(alone, lone_steps)] = read(client, DRAWN | {"seed": each.seed}, **outputs)
        assert bits(steps) == bits(lone_steps)
        assert (each.text, each.finish_reason) == (alone.text, alone.finish_reason)
    assert together[0][0].seed == DRAWN["seed"]


def test_greedy_continuations_are_equal_and_the_prompt_counts_once(client: Client) -> None:
    generation = client.generate(PROMPT, n=3, max_new_tokens=9, ignore_eos=True)
    texts = generation.read_texts()
    assert texts == client.generate(PROMPT, max_new_tokens=9, ignore_eos=True).read_texts() * 3
    assert generation.usage is not None
    assert generation.usage.input_tokens == len(generation.prompt_ids)
    assert generation.usage.output_tokens == 27


def test_each_keeps_the_schema_and_ends_by_itself(client: Client) -> None:
    schema = {"type": "array", "items": {"enum": [1, "a", True]}, "maxItems": 4}
    found = read(client, DRAWN | {"max_new_tokens": 120}, n=8, json_schema=schema)
    ended = [json.loads(each.text) for each, _ in found if each.finish_reason == "stop"]
    assert len(ended) > 2
    for value in ended:
        assert len(value) <= 4
        assert all(item in (1, "a", True) for item in value)
    assert len({each.text for each, _ in found}) > 4
    assert len({len(steps) for _, steps in found}) > 2


def test_a_stop_string_ends_the_one_that_meets_it(client: Client) -> None:
    options = DRAWN | {"n": 3, "regex": "[a-z]+", "temperature": 50.0}  # letters, all kinds
    free = read(client, options)
    stop = free[1][0].text[4:7]
    assert all(stop not in each.text for each, _ in (free[0], free[2]))
    cut = read(client, options, stop=stop)
    assert [each.stop_string for each, _ in cut] == ["", stop, ""]
    assert cut[1][0].text == free[1][0].text[: free[1][0].text.index(stop)]
    assert [cut[i][0].text for i in (0, 2)] == [free[i][0].text for i in (0, 2)]


@pytest.mark.parametrize("n", [0, 9])
def test_a_wrong_number_is_refused(client: Client, n: int) -> None:
    assert client.model().limits.max_continuations == 8
    with pytest.raises(InvalidArgument, match=rf"sampling\.n: {n} is not in \[1, 8\]") as caught:
        client.generate(PROMPT, n=n).read_texts()
    assert caught.value.field == "sampling.n"


def test_who_leaves_frees_everything(client: Client, running: Server) -> None:
    with client.generate(PROMPT, n=8, max_new_tokens=1500, ignore_eos=True) as generation:
        for _ in range(20):
            next(generation)
        assert running.metrics()["sequences_running", "tiny"] == 8
    deadline = time.monotonic() + 60
    while running.metrics()["kv_blocks_used", "tiny"]:
        assert time.monotonic() < deadline, "blocks are held"
        time.sleep(0.02)


async def test_the_async_client_reads_the_same(running: Server, client: Client) -> None:
    async with AsyncClient(running.address) as asynchronous:
        texts = await asynchronous.generate(PROMPT, n=3, **DRAWN).read_texts()
    assert texts == client.generate(PROMPT, n=3, **DRAWN).read_texts()
