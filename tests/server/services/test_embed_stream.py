"""EmbedStream behind a scripted engine: how much is in flight, and how calls end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from tokenizers import Tokenizer

import front_fakes
from front_calls import count, exchange, explain, settled, until
from front_fakes import Job, Running
from front_values import D_MODEL, float_tensor, make_event
from headstream.client._async_exchange import AsyncExchange
from headstream.server.errors import EngineUnavailable
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import embeddings_service_pb2_grpc, types_pb2

Exchange = AsyncExchange[pb.EmbedStreamRequest, pb.EmbedStreamResponse]
METHOD = "headstream.v1.EmbeddingsService/EmbedStream"
PLACES = 10
FLAGS = ("--max-stream-items", str(PLACES))
VECTOR = 8192  # dimensions of the wide model: 32 KiB


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(checkpoint, *FLAGS) as front:
        yield front


def stub(running: Running) -> Any:
    return embeddings_service_pb2_grpc.EmbeddingsServiceStub(running.channel)


def begin(
    running: Running, requests: Iterable[pb.EmbedStreamRequest], timeout_s: float | None = None
) -> Exchange:
    return exchange(stub(running).EmbedStream(timeout=timeout_s), requests)


def item(number: int, text: str = "fish") -> pb.EmbedStreamItem:
    return pb.EmbedStreamItem(id=number, item=pb.EmbedInput(input=types_pb2.Input(text=text)))


def messages(items: Iterable[pb.EmbedStreamItem], size: int = 4) -> Iterator[pb.EmbedStreamRequest]:
    """The items, so many in a message."""
    left = list(items)
    for at in range(0, len(left), size):
        yield pb.EmbedStreamRequest(items=left[at : at + size])


async def answers_of(call: Exchange) -> dict[int, pb.EmbedResult]:
    answers: dict[int, pb.EmbedResult] = {}
    while (reply := await call.read()) is not None:
        assert reply.answers
        for answer in reply.answers:
            assert answer.id not in answers
            answers[answer.id] = answer.result
    return answers


async def failure(call: Exchange) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers_of(call)
    return explain(caught.value)


def nothing_is_held(running: Running) -> bool:
    [model] = running.front.models
    assert model.loaded is not None
    queue = model.loaded.queue
    held = [queue.requests, queue.tokens, len(queue._outside), len(running.front.policy.open_calls)]
    return not any(held) and not count(running, "stream_items", model="tiny")


@pytest.mark.parametrize("size", [1, 3, 64])
async def test_the_vectors_are_those_of_embed(running: Running, size: int) -> None:
    texts = [f"{'fish ' * (i % 5)}{i}" for i in range(100)]
    options = pb.EmbedOptions(normalize=False)
    first = pb.EmbedStreamRequest(options=options)
    items = (item(7 * i, text) for i, text in enumerate(texts))
    call = begin(running, [first, *messages(items, size)])
    answers = await answers_of(call)
    for i, text in enumerate(texts):
        inputs = [pb.EmbedInput(input=types_pb2.Input(text=text))]
        request = pb.EmbedRequest(inputs=inputs, options=options)
        assert answers[7 * i] == (await stub(running).Embed(request)).results[0]
    assert nothing_is_held(running)


async def test_texts_of_all_kinds_in_one_message(running: Running, checkpoint: Path) -> None:
    """Whole texts are read together, the others alone; each is what the library makes of it."""
    library = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    items = [item(i, f"{'fish ' * i}{i}") for i in range(8)]
    for i in (1, 4):
        items[i].item.input.skip_special_tokens = True
    for i in (2, 4, 6):
        items[i].item.spans.add(start=0, end=4)
    items[3].item.input.token_ids.ids.extend([7, 5, 7])
    answers = await answers_of(begin(running, messages(items, 8)))
    assert all(answer.HasField("embedding") for answer in answers.values())
    expected = [
        library.encode(each.item.input.text, add_special_tokens=i not in (1, 4)).ids
        for i, each in enumerate(items)
    ]
    expected[3] = [7, 5, 7]
    assert sorted(list(job.token_ids) for job in running.handle.jobs) == sorted(expected)
    for i, answer in answers.items():
        assert answer.embedding.num_tokens == len(expected[i])
        assert list(answer.embedding.vectors.shape) == [1] * (i in (2, 4, 6)) + [D_MODEL]


async def test_the_fingerprint_comes_once(running: Running) -> None:
    call = begin(running, messages(item(i) for i in range(40)))
    replies: list[pb.EmbedStreamResponse] = []
    while (reply := await call.read()) is not None:
        replies.append(reply)
    assert len(replies) > 1
    assert replies[0].fingerprint.model == "tiny"
    assert not any(reply.HasField("fingerprint") for reply in replies[1:])


@pytest.mark.parametrize("requests", [[], [pb.EmbedStreamRequest()]])
async def test_no_items(running: Running, requests: list[pb.EmbedStreamRequest]) -> None:
    assert await answers_of(begin(running, requests)) == {}


async def test_a_bad_item_is_an_error_and_the_others_go_on(running: Running) -> None:
    items = [item(i, "" if i % 10 == 3 else "fish") for i in range(100)]
    items[50].item.spans.add(start=5, end=6)
    items[60].item.ClearField("input")
    items[70].item.spans.extend([pb.Span(start=0, end=1)] * 200_000)
    answers = await answers_of(begin(running, messages(items)))
    assert set(answers) == set(range(100))
    errors = {i: answer.error for i, answer in answers.items() if answer.HasField("error")}
    assert set(errors) == {*range(3, 100, 10), 50, 60, 70}
    assert errors[3].message == "item.input.text: is empty"
    assert errors[50].message.startswith("item.spans[0]")
    assert errors[60].message == "item.input: set text, token_ids or chat"
    assert (errors[70].code, errors[70].reason) == (8, "REPLY_TOO_LARGE")
    assert len(running.handle.jobs) == 100 - len(errors)


async def test_a_fault_of_one_sequence_is_one_error(running: Running) -> None:
    play = running.handle.script

    def script(job: Job) -> None:
        if len(running.handle.jobs) == 5:
            job.stream.put(make_event(finish="error"))
        else:
            play(job)

    running.handle.script = script
    answers = await answers_of(begin(running, messages(item(i) for i in range(20))))
    [error] = [answer.error for answer in answers.values() if answer.HasField("error")]
    assert (error.code, error.reason) == (13, "INTERNAL")
    assert error.message.startswith("internal error; request id ")


def finish(job: Job) -> None:
    vectors = float_tensor(np.ones((1, D_MODEL)))
    job.stream.put(make_event(vectors=vectors, finish="length"))


async def test_a_busy_engine_stops_the_sender(running: Running) -> None:
    """Nothing is answered: the places fill, and the rest stays with the client."""
    sent = 0
    options = pb.EmbedOptions(truncate=True)

    def endless() -> Iterator[pb.EmbedStreamRequest]:
        nonlocal sent
        yield pb.EmbedStreamRequest(options=options)
        while True:
            yield pb.EmbedStreamRequest(items=[item(sent * 64 + i, "x" * 500) for i in range(64)])
            sent += 1

    running.handle.script = lambda job: None
    call = begin(running, endless())
    await until(lambda: len(running.handle.jobs) == PLACES)
    await settled(lambda: sent)
    blocked, jobs = sent, running.handle.jobs
    assert len(jobs) == count(running, "stream_items", model="tiny") == PLACES
    for i in range(200):
        await until(lambda n=PLACES + i: len(jobs) == n)  # type: ignore[misc]
        finish(jobs[i])
        assert await call.read() is not None
    await settled(lambda: len(jobs))
    assert len(jobs) == 200 + PLACES
    assert sent < blocked + 200, "it would be millions"
    call.cancel()
    await until(lambda: nothing_is_held(running))


async def test_a_slow_reader_stops_the_reading_of_items(checkpoint: Path) -> None:
    total = 2000  # 64 MB of answers
    async with front_fakes.running_front(checkpoint, *FLAGS, d_model=VECTOR) as running:
        call = begin(running, messages((item(i) for i in range(total)), 64))
        await until(lambda: bool(running.handle.jobs))
        await settled(lambda: len(running.handle.jobs))
        assert len(running.handle.jobs) < total / 2
        assert count(running, "stream_items", model="tiny") <= PLACES
        assert len(await answers_of(call)) == total
        assert nothing_is_held(running)


@pytest.mark.parametrize("way", ["cancel", "deadline"])
async def test_who_leaves_frees_everything(running: Running, way: str) -> None:
    running.handle.script = lambda job: None
    requests = messages(item(i) for i in range(100))
    call = begin(running, requests, timeout_s=2 if way == "deadline" else None)
    await until(lambda: len(running.handle.jobs) == PLACES)
    if way == "cancel":
        call.cancel()
    await until(lambda: nothing_is_held(running))
    assert all(job.left for job in running.handle.jobs)
    assert count(running, "aborts_total", model="tiny", reason=_reason(way)) == PLACES


def _reason(way: str) -> str:
    return {"cancel": "cancelled", "deadline": "deadline_exceeded"}[way]


async def test_draining_ends_it(running: Running) -> None:
    running.handle.script = lambda job: None
    call = begin(running, messages(item(i) for i in range(100)))
    await until(lambda: len(running.handle.jobs) == PLACES)
    draining = asyncio.create_task(running.front.drain())
    code, _, reason = await failure(call)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await draining
    assert nothing_is_held(running)


async def test_an_engine_that_dies_ends_it(running: Running) -> None:
    running.handle.script = lambda job: job.stream.fail(EngineUnavailable("gone"))
    code, message, _ = await failure(begin(running, messages([item(1)])))
    assert (code, message) == (grpc.StatusCode.UNAVAILABLE, "gone")
    await until(lambda: nothing_is_held(running))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            pb.EmbedStreamRequest(items=[item(1)] * 1025),
            "items: has 1025 entries; allowed are 0 to 1024",
        ),
        (pb.EmbedStreamRequest(model="tiny"), "model: belongs in the first message"),
        (
            pb.EmbedStreamRequest(options=pb.EmbedOptions()),
            "options: belongs in the first message",
        ),
        (pb.EmbedStreamRequest(item=pb.EmbedInput()), "item: is not taken; send items"),
    ],
)
async def test_a_message_that_breaks_a_rule_ends_it_behind_the_answers(
    running: Running, bad: pb.EmbedStreamRequest, message: str
) -> None:
    call = begin(running, [*messages(item(i) for i in range(20)), bad])
    answered = 0
    while answered < 20:
        reply = await call.read()
        assert reply is not None
        answered += len(reply.answers)
    code, said, reason = await failure(call)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert said == message


async def test_options_are_checked_before_any_work(running: Running) -> None:
    options = pb.EmbedOptions(dimensions=D_MODEL + 1)
    request = pb.EmbedStreamRequest(options=options, items=[item(1)])
    code, message, _ = await failure(begin(running, [request]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message == f"options.dimensions: {D_MODEL + 1} is not in [1, {D_MODEL}]"
    assert running.handle.jobs == []


async def test_a_stream_without_items_is_ended_but_not_one_that_works(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, "--session-idle", "1") as running:
        running.handle.script = lambda job: None
        call: Exchange = AsyncExchange(stub(running).EmbedStream())
        await call.write(pb.EmbedStreamRequest(items=[item(1)]))
        await until(lambda: bool(running.handle.jobs))
        await asyncio.sleep(1.5)
        finish(running.handle.jobs[0])
        reply = await call.read()
        assert reply is not None
        assert [answer.id for answer in reply.answers] == [1]
        code, message, reason = await failure(call)
        assert (code, reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "SESSION_EXPIRED")
        assert message == "the session ends: no item for 1 s"
        code, _, _ = await failure(AsyncExchange(stub(running).EmbedStream()))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_others_are_let_in_while_a_stream_is_busy(checkpoint: Path) -> None:
    flags = ("--max-queued-requests", "8", "--max-stream-items", "50")
    async with front_fakes.running_front(checkpoint, *flags) as running:
        play = running.handle.script
        running.handle.script = lambda job: None
        call = begin(running, messages(item(i) for i in range(100)))
        await until(lambda: len(running.handle.jobs) == 4)
        running.handle.script = play
        inputs = [pb.EmbedInput(input=types_pb2.Input(text="fish"))] * 4
        reply = await stub(running).Embed(pb.EmbedRequest(inputs=inputs), timeout=60)
        assert len(reply.results) == 4
        for job in running.handle.jobs[:4]:
            finish(job)
        assert len(await answers_of(call)) == 100
        assert nothing_is_held(running)
