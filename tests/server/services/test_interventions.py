"""Changes to the model in every request that can bring them, over a scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

import front_fakes
from front_calls import failure, read_all
from front_fakes import Job, Running
from front_values import D_MODEL
from headstream.model.sites import Edit, SiteSpec, TraceSpec
from headstream.v1 import embeddings_service_pb2 as embed_pb
from headstream.v1 import embeddings_service_pb2_grpc as embed_grpc
from headstream.v1 import internals_service_pb2 as internals_pb
from headstream.v1 import internals_service_pb2_grpc as internals_grpc
from headstream.v1 import logits_service_pb2 as logits_pb
from headstream.v1 import logits_service_pb2_grpc as logits_grpc
from headstream.v1 import types_pb2 as pb

Code = grpc.StatusCode


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(checkpoint) as front:
        yield front


def ids(count: int) -> pb.Input:
    return pb.Input(token_ids=pb.TokenIds(ids=[40] * count))


def zero() -> pb.Intervention:
    return pb.Intervention(site="z", layers=[1], heads=[1], scale=0.0)


def patch(count: int = 6, **fields: Any) -> pb.Intervention:
    named: dict[str, Any] = {"site": "resid_post", "layers": [2, 1], "patch_from": ids(count)}
    return pb.Intervention(**(named | fields))


def stub(kind: Any, running: Running) -> Any:
    return kind(running.channel)


Changes = list[pb.Intervention]


def generate(running: Running, changes: Changes) -> Any:
    request = logits_pb.GenerateRequest(prompt=ids(5), interventions=changes)
    return stub(logits_grpc.LogitsServiceStub, running).Generate(request, timeout=20)


def score(running: Running, changes: Changes) -> Any:
    request = logits_pb.ScoreRequest(inputs=[ids(5)], interventions=changes)
    return stub(logits_grpc.LogitsServiceStub, running).Score(request, timeout=20)


def embed_tokens(running: Running, changes: Changes) -> Any:
    request = embed_pb.EmbedTokensRequest(input=ids(5), interventions=changes)
    return stub(embed_grpc.EmbeddingsServiceStub, running).EmbedTokens(request, timeout=20)


def embed_stream(running: Running, changes: Changes) -> Any:
    item = embed_pb.EmbedStreamItem(item=embed_pb.EmbedInput(input=ids(5)))
    first = embed_pb.EmbedStreamRequest(items=[item], interventions=changes)
    return stub(embed_grpc.EmbeddingsServiceStub, running).EmbedStream(iter([first]), timeout=20)


def trace(running: Running, changes: Changes) -> Any:
    sites = [internals_pb.Site(name="q")]
    request = internals_pb.TraceRequest(input=ids(5), sites=sites, interventions=changes)
    return stub(internals_grpc.InternalsServiceStub, running).Trace(request, timeout=20)


def attention(running: Running, changes: Changes) -> Any:
    request = internals_pb.AttentionRequest(input=ids(5), interventions=changes)
    return stub(internals_grpc.InternalsServiceStub, running).Attention(request, timeout=20)


def lens(running: Running, changes: Changes) -> Any:
    request = internals_pb.LogitLensRequest(input=ids(5), interventions=changes)
    return stub(internals_grpc.InternalsServiceStub, running).LogitLens(request, timeout=20)


CALLS = [generate, score, embed_tokens, embed_stream, trace, attention, lens]


async def embed(running: Running, changes: Changes, count: int = 1) -> Any:
    inputs = [embed_pb.EmbedInput(input=ids(5))] * count
    request = embed_pb.EmbedRequest(inputs=inputs, interventions=changes)
    return await stub(embed_grpc.EmbeddingsServiceStub, running).Embed(request, timeout=20)


@pytest.mark.parametrize("call", CALLS)
async def test_the_engine_is_told(running: Running, call: Callable[..., Any]) -> None:
    await read_all(call(running, [zero()]))
    [job] = running.handle.jobs
    assert job.edits == (Edit("z", "scale", (1,), (1,), factor=0.0),)


@pytest.mark.parametrize("call", CALLS)
async def test_a_patch_comes_from_a_run_of_its_own(
    running: Running, call: Callable[..., Any]
) -> None:
    """First the other input, asked for the site alone; then this one, with the values in order."""
    await read_all(call(running, [zero(), patch(position_start=1, position_end=5)]))
    other, job = running.handle.jobs
    assert (len(other.token_ids), len(job.token_ids)) == (6, 5)
    assert other.edits == ()
    assert other.look.trace == TraceSpec((SiteSpec("resid_post", (1, 2)),), 1, 5)
    assert job.edits[0].kind == "scale"
    check_patched(job, 1, 5)


def check_patched(job: Job, start: int, end: int) -> None:
    """The scripted engine's values: 1000 layers and 10 positions."""
    edit = job.edits[-1]
    assert (edit.site, edit.kind, edit.layers) == ("resid_post", "set", (1, 2))
    assert (edit.start, edit.end) == (start, end)
    values = np.frombuffer(edit.values, "<f4").reshape(2, end - start, D_MODEL)
    expected = 1000 * np.array([[1], [2]]) + 10 * np.arange(start, end)
    assert np.array_equal(values, np.repeat(expected[..., None], D_MODEL, 2))


async def test_every_text_of_a_request_has_the_changes_and_the_patch_runs_once(
    running: Running,
) -> None:
    reply = await embed(running, [patch()], count=3)
    other, *jobs = running.handle.jobs
    assert len(other.token_ids) == 6
    assert len(jobs) == 3
    for job in jobs:
        check_patched(job, 0, 6)
    assert reply.usage.input_tokens == 6 + 3 * 5, "the other input counts as read"
    assert reply.usage.tensor_bytes == 3 * D_MODEL * 4, "its values were not sent"


async def test_the_heads_of_a_patch(running: Running) -> None:
    await read_all(generate(running, [patch(site="z", heads=[1], layers=[2], position_start=5)]))
    [edit] = running.handle.jobs[1].edits
    assert (edit.heads, edit.start, edit.end) == ((1,), 5, 6)
    assert np.frombuffer(edit.values, "<f4").tolist() == [2051.0] * 4


BAD = [
    (
        patch(5, position_end=6),
        "interventions[0].positions: [0, 6) is not in [0, 5), the positions",
    ),
    (patch(5, position_start=5), "interventions[0].positions: [5, ) is not in [0, 5)"),
    (patch(65), "interventions[0].patch_from: has 65 tokens; the model takes 64"),
    (patch(0), "interventions[0].patch_from.token_ids: is empty"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
async def test_a_patch_that_does_not_fit_is_refused_before_any_work(
    running: Running, wrong: pb.Intervention, message: str
) -> None:
    code, told, reason = await failure(generate(running, [wrong]))
    assert (code, reason) == (Code.INVALID_ARGUMENT, "INVALID_FIELD")
    assert message in told
    assert not running.handle.jobs


async def test_patched_values_keep_the_limits(checkpoint: Path) -> None:
    flags = ("--max-intervention-value", "2050", "--max-intervention-bytes", "383")
    async with front_fakes.running_front(checkpoint, *flags) as running:
        code, message, _ = await failure(generate(running, [patch()]))
        assert code is Code.INVALID_ARGUMENT
        assert "interventions: hold 384 bytes of values; the limit is 383" in message
        assert not running.handle.jobs
        await read_all(generate(running, [patch(5)]))
        large = [patch(position_start=5)]
        await read_all(generate(running, large))
    async with front_fakes.running_front(checkpoint, "--max-intervention-value", "2049") as running:
        code, message, _ = await failure(generate(running, large))
        assert code is Code.INVALID_ARGUMENT
        assert "patch_from: reaches 2050; the largest absolute value is 2049" in message


async def test_the_other_input_waits_in_the_queue_too(checkpoint: Path) -> None:
    """Two places are taken while both wait, and given back when they are done."""
    async with front_fakes.running_front(checkpoint, "--max-queued-requests", "2") as running:
        for _ in range(3):
            await read_all(generate(running, [patch()]))


TOO_MANY = "interventions: bring 2 requests; beside the 1 of the request itself, 1 fit into "
TOO_LONG = "interventions: bring 12 tokens; beside the 5 of the request itself, 11 fit into "


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("--max-queued-requests", 2, TOO_MANY + "max_queued_requests, which is 2"),
        ("--max-queued-tokens", 16, TOO_LONG + "max_queued_tokens, which is 16"),
    ],
)
@pytest.mark.parametrize("call", [generate, score, embed_tokens, trace, attention, lens])
async def test_inputs_that_could_never_wait_beside_the_request(
    checkpoint: Path, call: Callable[..., Any], limit: str, value: int, message: str
) -> None:
    """Trying again would not help, so they are no QUEUE_FULL; one more place, and they run."""
    several = [patch(), patch(layers=[1])]
    async with front_fakes.running_front(checkpoint, limit, str(value)) as running:
        code, told, reason = await failure(call(running, several))
        assert (code, reason) == (Code.INVALID_ARGUMENT, "INVALID_FIELD")
        assert told == message
        assert not running.handle.jobs
        await read_all(call(running, [zero()]))
    async with front_fakes.running_front(checkpoint, limit, str(value + 1)) as running:
        await read_all(call(running, several))


async def test_the_request_alone_may_be_more_than_may_wait(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, "--max-queued-tokens", "4") as running:
        code, told, reason = await failure(generate(running, [patch()]))
        assert (code, reason) == (Code.INVALID_ARGUMENT, "INVALID_FIELD")
        assert told.endswith("0 fit into max_queued_tokens, which is 4")


async def test_a_text_in_windows_has_the_changes_where_it_asks_for_them(running: Running) -> None:
    change = pb.Intervention(site="z", layers=[1], scale=0.0, position_start=70, position_end=72)
    request = logits_pb.ScoreRequest(inputs=[ids(80)], window_stride=32, interventions=[change])
    await read_all(stub(logits_grpc.LogitsServiceStub, running).Score(request, timeout=20))
    first, second = running.handle.jobs
    assert [(edit.start, edit.end) for edit in first.edits] == [(70, 72)], "beyond its end"
    assert [(edit.start, edit.end) for edit in second.edits] == [(38, 40)]


async def test_changes_of_a_stream_belong_in_its_first_message(running: Running) -> None:
    messages = [
        embed_pb.EmbedStreamRequest(),
        embed_pb.EmbedStreamRequest(interventions=[zero()]),
    ]
    call = stub(embed_grpc.EmbeddingsServiceStub, running).EmbedStream(iter(messages), timeout=20)
    code, message, _ = await failure(call)
    assert code is Code.INVALID_ARGUMENT
    assert message == "interventions: belongs in the first message"


async def test_a_session_checks_its_changes(running: Running) -> None:
    opening = logits_pb.DecodeOpen(
        prompt=ids(2), interventions=[pb.Intervention(site="pattern", layers=[1], scale=1.0)]
    )
    moves = [logits_pb.DecodeRequest(open=opening)]
    call = stub(logits_grpc.LogitsServiceStub, running).Decode(iter(moves), timeout=20)
    code, message, _ = await failure(call)
    assert code is Code.INVALID_ARGUMENT
    assert message == "open.interventions[0].site: pattern can be read, but not changed"


@pytest.mark.parametrize("call", CALLS[:4])
async def test_a_server_may_take_none(checkpoint: Path, call: Callable[..., Any]) -> None:
    async with front_fakes.running_front(checkpoint, "--no-internals") as running:
        code, message, reason = await failure(call(running, [zero()]))
        assert (code, reason) == (Code.UNIMPLEMENTED, "NOT_SERVED")
        assert message == "interventions: not served by this server"
        await read_all(call(running, []))
