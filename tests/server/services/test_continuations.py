"""Several continuations of one prompt: one reply stream, with an end for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

import front_fakes
import front_values
import tiny_tokenizers
from front_calls import count, failure, generate, read_all, until
from front_fakes import Job, Running
from headstream.server.engine.stream import TokenEvent
from headstream.server.tokenizer import TextTokenizer
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import types_pb2

TOKENIZER = TextTokenizer(tiny_tokenizers.byte_level_tokenizer())


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(checkpoint) as front:
        yield front


def sampling(n: int) -> pb.SamplingParams:
    return pb.SamplingParams(n=n, seed=9)


def of(replies: list[pb.GenerateResponse], continuation: int) -> list[pb.GenerateResponse]:
    """Its own events."""
    return [
        reply
        for reply in replies
        if reply.continuation == continuation and not reply.HasField("start")
    ]


def kinds(replies: list[pb.GenerateResponse]) -> list[str]:
    return [reply.WhichOneof("event") or "" for reply in replies]


def text_of(replies: list[pb.GenerateResponse]) -> str:
    return "".join(reply.step.text or reply.end.text for reply in replies)


async def test_one_start_and_for_each_its_steps_and_its_end(running: Running) -> None:
    stop = pb.StopConditions(max_new_tokens=3)
    vectors = pb.GeneratedEmbeddings(layers=types_pb2.LayerSelection(layers=[0]))
    call = generate(running, sampling=sampling(3), stop=stop, embeddings=vectors)
    replies = await read_all(call)
    assert Counter(kinds(replies)) == {"start": 1, "step": 9, "embedding": 9, "end": 3}
    assert kinds(replies)[0] == "start"
    for continuation in range(3):
        own = of(replies, continuation)
        assert kinds(own)[-1] == "end"
        assert [reply.step.index for reply in own if reply.HasField("step")] == [0, 1, 2]
        assert [reply.embedding.index for reply in own if reply.HasField("embedding")] == [0, 1, 2]
    start = replies[0].start
    assert list(start.seeds) == [job.sampling.seed for job in running.handle.jobs]
    assert start.seeds[0] == start.seed == 9
    ends = [reply.end for reply in replies if reply.HasField("end")]
    assert sum(end.usage.input_tokens for end in ends) == 2
    assert [end.usage.output_tokens for end in ends] == [3, 3, 3]
    assert sum(end.usage.tensor_bytes for end in ends) == start.max_tensor_bytes
    assert count(running, "input_tokens_total", model="tiny") == 2
    assert count(running, "output_tokens_total", model="tiny") == 9
    assert count(running, "aborts_total", model="tiny", reason="stop_string") == 0


async def test_a_stop_string_ends_its_own_continuation_only(running: Running) -> None:
    texts = iter(["The chicken crossed", "The road", "The chicken"])

    def script(job: Job) -> None:
        ids = TOKENIZER.encode(next(texts), skip_special=True).ids
        for index, token_id in enumerate(ids):
            token = TokenEvent(index, token_id, None, None, ())
            job.stream.put(front_values.make_event(token=token))
        job.stream.put(front_values.make_event(finish="length"))

    running.handle.script = script
    stop = pb.StopConditions(strings=["cross"])
    replies = await read_all(generate(running, sampling=sampling(3), stop=stop))
    own = [of(replies, continuation) for continuation in range(3)]
    assert [text_of(each) for each in own] == ["The chicken ", "The road", "The chicken"]
    assert [each[-1].end.stop_string for each in own] == ["cross", "", ""]
    assert [job.left for job in running.handle.jobs] == [True, False, False]
    assert count(running, "aborts_total", model="tiny", reason="stop_string") == 1


@pytest.mark.parametrize("progress", [False, True])
async def test_who_cancels_leaves_them_all(running: Running, progress: bool) -> None:
    def script(job: Job) -> None:
        if progress:
            job.stream.put(front_values.make_event(token=TokenEvent(0, 40, None, None, ())))

    running.handle.script = script
    call = generate(running, sampling=sampling(4))
    await call.read()
    await until(lambda: len(running.handle.jobs) == 4)
    call.cancel()
    await until(lambda: all(job.left for job in running.handle.jobs))
    await until(lambda: count(running, "aborts_total", model="tiny", reason="cancelled") == 4)
    loaded = running.front.models.find("").loaded
    assert loaded is not None
    assert (loaded.queue.requests, loaded.queue.tokens) == (0, 0)


async def test_a_fault_of_one_ends_the_call_and_leaves_the_others(running: Running) -> None:
    def script(job: Job) -> None:
        if len(running.handle.jobs) == 2:
            job.stream.put(front_values.make_event(finish="error"))

    running.handle.script = script
    code, _, _ = await failure(generate(running, sampling=sampling(3)))
    assert code is grpc.StatusCode.INTERNAL
    assert [job.left for job in running.handle.jobs] == [True, False, True]


async def test_too_many_are_refused_before_any_work(checkpoint: Path) -> None:
    """By the setting, or by half of what a step takes."""
    flags = ("--max-continuations", "8", "--max-num-seqs", "6")
    async with front_fakes.running_front(checkpoint, *flags) as running:
        code, message, _ = await failure(generate(running, sampling=sampling(4)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message == "sampling.n: 4 is not in [1, 3]"
        assert running.handle.jobs == []
        await read_all(generate(running, sampling=sampling(3)))
        assert len(running.handle.jobs) == 3


async def test_each_takes_a_place_in_the_queue_and_the_prompt_counts_once(
    checkpoint: Path,
) -> None:
    async with front_fakes.running_front(checkpoint, "--max-queued-requests", "4") as running:
        running.handle.script = lambda job: None
        waiting = generate(running, sampling=sampling(3))
        await waiting.read()
        await until(lambda: len(running.handle.jobs) == 3)
        loaded = running.front.models.find("").loaded
        assert loaded is not None
        assert (loaded.queue.requests, loaded.queue.tokens) == (3, 2)
        code, message, _ = await failure(generate(running, sampling=sampling(2)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "3 requests are waiting; the limit is 4" in message
        for job in running.handle.jobs:
            job.stream.put(front_values.make_event())
        await until(lambda: loaded.queue.requests == 0)
        waiting.cancel()
