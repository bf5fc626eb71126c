"""Score over a scripted engine: order, windows, limits, failures, readers who leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

import front_fakes
import front_values
from front_calls import count, explain, read_all, until
from front_fakes import Job, Running
from front_values import MAX_MODEL_LEN
from headstream.server.engine.stream import ScoresEvent
from headstream.server.errors import EngineUnavailable
from headstream.server.wire.tensors import CHUNK_BYTES
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2

FULL = pb.LogitsOptions(mode=pb.LOGITS_MODE_FULL)


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(checkpoint) as front:
        yield front


def ids(length: int, first: int = 40) -> types_pb2.Input:
    values = [first + i % 100 for i in range(length)]
    return types_pb2.Input(token_ids=types_pb2.TokenIds(ids=values))


def call(running: Running, *inputs: types_pb2.Input, **fields: Any) -> Any:
    stub: Any = logits_service_pb2_grpc.LogitsServiceStub(running.channel)
    return stub.Score(pb.ScoreRequest(inputs=inputs, **fields), timeout=60)


async def score(
    running: Running, *inputs: types_pb2.Input, **fields: Any
) -> list[pb.ScoreResponse]:
    return [reply async for reply in call(running, *inputs, **fields)]


async def refusal(
    running: Running, *inputs: types_pb2.Input, **fields: Any
) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await score(running, *inputs, **fields)
    explain(caught.value)
    return caught.value.code(), caught.value.details() or ""


def positions(replies: list[pb.ScoreResponse], index: int) -> list[pb.ScorePositions]:
    found = [reply.positions for reply in replies if reply.HasField("positions")]
    return [each for each in found if each.input == index]


async def test_start_positions_summaries_end(running: Running) -> None:
    replies = await score(running, ids(7), types_pb2.Input(text="The chicken"), ids(20, first=90))
    start, *_, end = replies
    assert [item.num_tokens for item in start.start.inputs][::2] == [7, 20]
    assert [item.first_token_id for item in start.start.inputs][::2] == [40, 90]
    assert start.start.fingerprint.model == "tiny"
    assert start.start.request_id
    for index, item in enumerate(start.start.inputs):
        told = [at for each in positions(replies, index) for at in each.ranks]
        assert told == list(range(1, item.num_tokens)), "in order, each once"
    last = positions(replies, 2)[-1]
    assert (last.start, list(last.token_ids)) == (11, list(range(101, 110)))
    summaries = {
        reply.summary.input: reply.summary for reply in replies if reply.HasField("summary")
    }
    assert sorted(summaries) == [0, 1, 2]
    assert (summaries[0].logprob, summaries[0].scored_tokens) == (-21.0, 6)
    assert summaries[0].perplexity == pytest.approx(np.exp(3.5))
    usage = end.end.usage
    assert usage.input_tokens == sum(item.num_tokens for item in start.start.inputs)
    assert (usage.output_tokens, usage.tensor_bytes) == (0, 0)
    assert end.end.timings.first_output_ns > 0
    assert count(running, "input_tokens_total", model="tiny") == usage.input_tokens
    assert not any(job.left or job.max_new_tokens for job in running.handle.jobs)


async def test_windows_run_one_after_the_other(running: Running) -> None:
    length = MAX_MODEL_LEN + 25
    replies = await score(running, ids(length), window_stride=10)
    jobs = running.handle.jobs
    assert [len(job.token_ids) for job in jobs] == [64, 64, 64, 59]
    assert [job.outputs.score.first for job in jobs if job.outputs.score] == [1, 54, 54, 54]
    starts = [each.start for each in positions(replies, 0)]
    assert starts == sorted(starts)
    told = [token for each in positions(replies, 0) for token in each.token_ids]
    assert told == list(ids(length).token_ids.ids)[1:]
    assert replies[-1].end.usage.input_tokens == 64 * 3 + 59
    loaded = running.front.models.find("").loaded
    assert loaded is not None
    assert (loaded.queue.requests, loaded.queue.tokens) == (0, 0)


async def test_a_long_text_waits_window_by_window_and_leaves_room(checkpoint: Path) -> None:
    """Read 2,000 times, it counts as what waits of it: one window, or nothing."""
    async with front_fakes.running_front(checkpoint, "--max-queued-tokens", "200") as running:
        loaded = running.front.models.find("").loaded
        assert loaded is not None
        queue, jobs, play = loaded.queue, running.handle.jobs, running.handle.script
        running.handle.script = lambda job: None
        stream = call(running, ids(MAX_MODEL_LEN + 2000), window_stride=1)
        await stream.read()
        await until(lambda: len(jobs) == 1)
        assert queue.tokens == MAX_MODEL_LEN
        jobs[0].stream.put(front_values.make_event())
        await until(lambda: not queue.tokens)
        others = [call(running, ids(60)) for _ in range(3)]
        await until(lambda: len(jobs) == 4)
        assert queue.tokens == 180

        play(jobs[0])
        assert [(await stream.read()).HasField("positions") for _ in range(2)] == [True] * 2
        await asyncio.sleep(0.1)
        assert len(jobs) == 4, "there is no room for it"
        play(jobs[1])
        await until(lambda: len(jobs) == 5)
        assert queue.tokens == MAX_MODEL_LEN + 120, "the second window: it takes more than half"
        for job in jobs[2:4]:
            play(job)
        assert [(await read_all(other))[-1].HasField("end") for other in others] == [True] * 3
        stream.cancel()
        await until(lambda: queue.requests == queue.tokens == 0)


async def test_rows_are_counted_and_their_budget_is_known_before(running: Running) -> None:
    replies = await score(running, ids(5), ids(3), logits=FULL)
    ready = running.handle.ready
    assert ready is not None
    budget = (4 + 2) * ready.d_vocab * 4
    assert replies[0].start.max_tensor_bytes == replies[-1].end.usage.tensor_bytes == budget
    assert count(running, "reply_bytes_total", model="tiny", kind="logits") == budget
    await score(running, ids(5), ids(3), logits=FULL, max_reply_bytes=budget)
    jobs = len(running.handle.jobs)
    code, message = await refusal(running, ids(5), ids(3), logits=FULL, max_reply_bytes=budget - 1)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"would take {budget} bytes; the limit is {budget - 1}" in message
    assert len(running.handle.jobs) == jobs, "before the engine sees anything"


async def test_large_rows_come_in_chunks(checkpoint: Path) -> None:
    d_vocab = CHUNK_BYTES // 4 + 1
    async with front_fakes.running_front(checkpoint, d_vocab=d_vocab) as running:
        replies = await score(running, ids(4), logits=FULL)
    assert [each.chunks for each in positions(replies, 0)] == [2, 2, 2]
    assert all(reply.ByteSize() < 2 * CHUNK_BYTES for reply in replies)


@pytest.mark.parametrize(
    ("inputs", "fields", "named"),
    [
        ([], {}, "inputs: has 0 entries; allowed are 1 to 64"),
        ([ids(2)] * 65, {}, "inputs: has 65 entries; allowed are 1 to 64"),
        ([ids(2), ids(1)], {}, "inputs[1]: has 1 tokens; the first has no score: at least 2"),
        ([ids(65)], {}, "inputs[0]: has 65 tokens; the model takes 64"),
        ([ids(2)], {"window_stride": 64}, "window_stride: 64 is not in [1, 63]"),
        ([ids(2), types_pb2.Input()], {}, "inputs[1]: set text, token_ids or chat"),
    ],
)
async def test_bad_requests_are_refused_before_any_work(
    running: Running, inputs: list[types_pb2.Input], fields: dict[str, Any], named: str
) -> None:
    assert await refusal(running, *inputs, **fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        named,
    )
    assert running.handle.jobs == []


async def test_an_engine_that_dies_fails_the_request(running: Running) -> None:
    def script(job: Job) -> None:
        if len(running.handle.jobs) == 2:
            job.stream.fail(EngineUnavailable("gone"))

    running.handle.script = script
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await score(running, ids(3), ids(4), ids(5))
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}
    await until(lambda: all(job.left for job in running.handle.jobs))


async def test_a_caller_who_leaves_frees_all_texts(running: Running) -> None:
    running.handle.script = lambda job: None
    stream = call(running, *[ids(5)] * 8)
    assert (await stream.read()).HasField("start")
    await until(lambda: len(running.handle.jobs) == 8)
    stream.cancel()
    await until(lambda: all(job.left for job in running.handle.jobs))
    loaded = running.front.models.find("").loaded
    assert loaded is not None
    await until(lambda: loaded.queue.requests == 0)


async def test_an_unread_stream_pauses_its_sequences(running: Running) -> None:
    """The engine gets credit for what has been read, and not for what waits."""
    size = CHUNK_BYTES + 12

    def script(job: Job) -> None:
        rows = front_values.float_tensor(np.zeros((1, CHUNK_BYTES // 4)))
        for i in range(59):
            scores = ScoresEvent(i + 1, front_values.float_tensor(np.zeros((3, 1))), rows, b"")
            job.stream.put(front_values.make_event(scores=scores, told_bytes=(i + 1) * size))
        job.stream.put(front_values.make_event(finish="length"))

    running.handle.script = script
    stream = call(running, ids(60))
    await stream.read()
    await until(lambda: bool(running.handle.jobs))
    await asyncio.sleep(0.3)  # whatever gRPC takes ahead of its reader, it has taken
    [job] = running.handle.jobs
    waiting = len(job.stream._events) - 1  # and the end
    assert waiting > 5
    assert max(job.credit, default=0) <= (59 - waiting + 4) * size + 1
    replies: list[Any] = await read_all(stream)
    assert len(positions(replies, 0)) == 59
    assert job.credit[-1] > 59 * size


async def test_a_full_queue_refuses(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, "--max-queued-requests", "4") as running:
        running.handle.script = lambda job: None
        waiting = call(running, *[ids(5)] * 3)
        await waiting.read()
        code, message = await refusal(running, ids(2), ids(2))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "3 requests are waiting; the limit is 4" in message
        waiting.cancel()
