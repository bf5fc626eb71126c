"""Trace, Attention and LogitLens over a scripted engine: order, bytes, cuts and refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

import front_fakes
from front_calls import failure, read_all
from front_fakes import Running
from front_looks import site_values
from front_values import MAX_MODEL_LEN, N_LAYERS, make_ready
from headstream.model.sites import SiteSpec
from headstream.server.wire.tensors import CHUNK_BYTES
from headstream.v1 import internals_service_pb2 as pb
from headstream.v1 import (
    internals_service_pb2_grpc,
    logits_service_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    tensor_pb2,
    types_pb2,
)

Code = grpc.StatusCode
READY = make_ready(Path(), 400)
DTYPES = {1: "<f4", 6: "<i4"}


@pytest_asyncio.fixture
async def running(checkpoint: Path) -> AsyncIterator[Running]:
    async with front_fakes.running_front(checkpoint, "--max-reply-bytes", "100000000") as front:
        yield front


def ids(count: int) -> types_pb2.Input:
    return types_pb2.Input(token_ids=types_pb2.TokenIds(ids=[40] * count))


def call(running: Running, method: str, count: int = 5, **fields: Any) -> Any:
    stub: Any = internals_service_pb2_grpc.InternalsServiceStub(running.channel)
    request = getattr(pb, f"{method}Request")(**({"input": ids(count)} | fields))
    return getattr(stub, method)(request, timeout=20)


def model_stub(running: Running) -> Any:
    return model_service_pb2_grpc.ModelServiceStub(running.channel)


def array(tensor: tensor_pb2.Tensor) -> np.ndarray:
    return np.frombuffer(tensor.data, DTYPES[tensor.dtype]).reshape(tuple(tensor.shape))


def tensor_bytes(replies: list[Any]) -> int:
    """Bytes of values and keys that came."""
    total = 0
    for reply in replies:
        if reply.WhichOneof("event") == "chunk":
            total += len(reply.chunk.weights.data) + len(reply.chunk.keys.data)
        elif reply.WhichOneof("event") == "values":
            total += sum(len(chunk.values.data) for chunk in reply.values.chunks)
        elif reply.WhichOneof("event") == "row":
            total += len(reply.row.logits.values.data)
    return total


def check_frame(replies: list[Any], count: int = 5, *, exact: bool = True) -> None:
    """The token table first, the end last, and as many bytes as were told."""
    start, end = replies[0].start, replies[-1].end
    assert list(start.tokens.ids) == [40] * count
    assert start.fingerprint.model == "tiny"
    assert start.request_id
    assert end.usage.input_tokens == count
    assert end.usage.tensor_bytes == tensor_bytes(replies)
    if exact:
        assert start.tensor_bytes == tensor_bytes(replies)


def chunks(replies: list[Any]) -> dict[tuple[str, int], list[Any]]:
    found: dict[tuple[str, int], list[Any]] = {}
    for reply in replies:
        for chunk in reply.values.chunks:
            found.setdefault((chunk.site, chunk.layer), []).append(chunk)
    return found


ALL_SITES = [pb.Site(name=name) for name in READY.sites]


async def test_every_site_of_every_layer(running: Running) -> None:
    replies = await read_all(call(running, "Trace", sites=ALL_SITES))
    check_frame(replies)
    assert not replies[0].start.rotary
    found = chunks(replies)
    assert len(found) == 3 + N_LAYERS * (len(READY.sites) - 3)
    for (name, layer), parts in found.items():
        values = np.concatenate([array(part.values) for part in parts])
        heads = (0, 1) if name in {"q", "k", "v", "z", "pattern", "attn_scores"} else ()
        expected = site_values(SiteSpec(name, (layer,), heads), layer, np.arange(5), 5, READY)  # type: ignore[arg-type]
        assert np.array_equal(values, expected), name


async def test_chosen_layers_heads_and_positions(running: Running) -> None:
    sites = [pb.Site(name="z", layers=[2], heads=[1]), pb.Site(name="z", layers=[1], heads=[0])]
    positions = pb.PositionRange(start=1, end=4)
    replies = await read_all(call(running, "Trace", sites=sites, positions=positions))
    check_frame(replies)
    found = chunks(replies)
    assert set(found) == {("z", 1), ("z", 2)}
    second = np.concatenate([array(part.values) for part in found["z", 2]])
    assert second.shape == (3, 1, 4)
    assert second[:, 0, 0].tolist() == [2011, 2021, 2031]


async def test_generated_tokens_come_with_their_values(running: Running) -> None:
    """The values of a position come before the token that follows it; its keys are those so far."""
    sites = [pb.Site(name="pattern", layers=[1]), pb.Site(name="resid_post", layers=[2])]
    replies = await read_all(call(running, "Trace", sites=sites, max_new_tokens=3))
    check_frame(replies)
    assert running.handle.jobs[0].stop_token_ids == (1,)
    order = [
        [chunk.start + chunk.values.shape[0] for chunk in reply.values.chunks]
        or -reply.generated_token_id
        for reply in replies[1:-1]
    ]
    assert order == [[3, 3], [5, 5], -40, [6, 6], -41, [7, 7], -42, [8, 8]], "a message a step"
    shapes = [tuple(part.values.shape) for part in chunks(replies)["pattern", 1]]
    assert shapes == [(3, 2, 5), (2, 2, 5), (1, 2, 6), (1, 2, 7), (1, 2, 8)]
    assert replies[-1].end.usage.output_tokens == 3


async def test_stacked_values_are_the_same_in_fewer_parts(running: Running) -> None:
    """One chunk for the layers of a site, one message for a step and the token behind it."""
    asked: dict[str, Any] = {"sites": ALL_SITES, "max_new_tokens": 2}
    apart = await read_all(call(running, "Trace", **asked))
    replies = await read_all(call(running, "Trace", stacked=True, **asked))
    check_frame(replies)
    assert tensor_bytes(replies) == tensor_bytes(apart)
    tokens = [
        reply.values.generated_token_id if reply.values.HasField("generated_token_id") else None
        for reply in replies[1:-1]
    ]
    assert tokens == [None, 40, 41, None], "a message a step"
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for reply in replies[1:-1]:
        assert [chunk.site for chunk in reply.values.chunks] == list(READY.sites)
        for chunk in reply.values.chunks:
            assert not chunk.layer
            for layer, rows in zip(chunk.layers, array(chunk.values), strict=True):
                found.setdefault((chunk.site, layer), []).append(rows)
    expected = chunks(apart)
    assert found.keys() == expected.keys()
    for place, parts in found.items():
        for ours, theirs in zip(parts, expected[place], strict=True):
            assert np.array_equal(ours, array(theirs.values)), place


@pytest.mark.parametrize("stacked", [False, True])
async def test_positions_may_end_before_the_generated_tokens(
    running: Running, stacked: bool
) -> None:
    asked: dict[str, Any] = {
        "sites": [pb.Site(name="pattern", layers=[1])],
        "positions": pb.PositionRange(start=4, end=6),
        "max_new_tokens": 3,
        "stacked": stacked,
    }
    replies = await read_all(call(running, "Trace", **asked))
    check_frame(replies)
    [parts] = chunks(replies).values()
    assert [part.start for part in parts] == [4, 5]
    alone = [reply for reply in replies if reply.WhichOneof("event") == "generated_token_id"]
    behind = [reply for reply in replies if reply.values.HasField("generated_token_id")]
    assert [reply.values.generated_token_id for reply in behind] == ([40, 41] if stacked else [])
    assert [reply.generated_token_id for reply in alone] == ([42] if stacked else [40, 41, 42])


async def test_values_are_cut_into_messages_of_a_mebibyte(checkpoint: Path) -> None:
    """Steps of ten tokens; a row takes 160,000 bytes, so that six go in a message."""
    async with front_fakes.running_front(checkpoint, d_model=40_000) as running:
        sites = [pb.Site(name="resid_post", layers=[1, 2])]
        replies = await read_all(call(running, "Trace", 20, sites=sites))
    check_frame(replies, 20)
    messages = [reply.values.chunks for reply in replies[1:-1]]
    sizes = [sum(len(chunk.values.data) for chunk in message) for message in messages]
    assert sum(sizes) == 2 * 20 * 160_000
    assert max(sizes) <= CHUNK_BYTES
    parts = [[(chunk.layer, chunk.start) for chunk in message] for message in messages]
    step = [[(1, 0)], [(1, 6)], [(2, 0)], [(2, 6)]]
    assert parts == step + [[(layer, start + 10) for layer, start in part] for (part) in step]


@pytest.mark.parametrize(
    ("width", "step"),
    [
        (12_000, [([1, 2], 0, 10)]),  # ten rows of a layer take 480,000 bytes
        (20_000, [([1], 0, 10), ([2], 0, 10)]),
        (40_000, [([1], 0, 6), ([1], 6, 4), ([2], 0, 6), ([2], 6, 4)]),
    ],
)
async def test_stacked_layers_are_cut_into_messages_of_a_mebibyte(
    checkpoint: Path, width: int, step: list[tuple[list[int], int, int]]
) -> None:
    async with front_fakes.running_front(checkpoint, d_model=width) as running:
        sites = [pb.Site(name="resid_post")]
        replies = await read_all(call(running, "Trace", 20, sites=sites, stacked=True))
    check_frame(replies, 20)
    parts: list[tuple[list[int], int, int]] = []
    for reply in replies[1:-1]:
        [chunk] = reply.values.chunks
        assert len(chunk.values.data) <= CHUNK_BYTES
        values = array(chunk.values)  # [layers, rows, width]
        parts.append((list(chunk.layers), chunk.start, values.shape[1]))
        rows = 10.0 * (chunk.start + np.arange(values.shape[1]))
        expected = 1000.0 * np.array(chunk.layers)[:, None] + rows
        assert np.array_equal(values, np.broadcast_to(expected[..., None], values.shape))
    assert parts == step + [(layers, start + 10, count) for layers, start, count in step]


async def test_attention_by_layer_head_and_query(running: Running) -> None:
    replies = await read_all(call(running, "Attention", layers=[2], heads=[1], queries=[4, 0]))
    check_frame(replies)
    parts = [reply.chunk for reply in replies[1:-1]]
    assert [list(part.queries) for part in parts] == [[0], [4]], "ascending"
    assert all((part.layer, list(part.heads)) == (2, [1]) for part in parts)
    first, last = (array(part.weights) for part in parts)
    assert first.shape == last.shape == (1, 1, 5)
    assert np.array_equal(first[0, 0], np.array([2.1] * 5, "<f4"))
    assert np.array_equal(last[0, 0], np.array([2.104] * 5, "<f4"))


async def test_all_of_the_attention(running: Running) -> None:
    replies = await read_all(call(running, "Attention"))
    check_frame(replies)
    assert replies[0].start.tensor_bytes == 2 * 2 * 5 * 5 * 4


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"top_k": 3}, (2, 3)),
        ({"top_k": 60}, (2, 5)),
        ({"average_heads": True}, (1, 5)),
        ({"average_heads": True, "top_k": 2}, (1, 2)),
        ({"rollout": True}, (1, 5)),
    ],
)
async def test_other_ways_to_see_attention(
    running: Running, fields: dict[str, Any], shape: tuple[int, int]
) -> None:
    replies = await read_all(call(running, "Attention", **fields))
    check_frame(replies)
    parts = [reply.chunk for reply in replies[1:-1]]
    rows, width = shape
    assert {part.layer for part in parts} == ({0} if "rollout" in fields else {1, 2})
    for part in parts:
        assert list(part.heads) == ([0, 1] if rows == 2 else [])
        assert tuple(part.weights.shape) == (rows, len(part.queries), width)
        if "top_k" in fields:
            assert array(part.keys).tolist() == [[list(range(width))] * len(part.queries)] * rows
        else:
            assert not part.HasField("keys")


async def test_large_patterns_are_cut_by_queries_and_heads(checkpoint: Path) -> None:
    """A row of 30 heads and 20,000 keys takes 2.4 MB, so some heads go in a message."""
    count = 20_000
    async with front_fakes.running_front(
        checkpoint, n_heads=30, max_model_len=count, eos_ids=()
    ) as running:
        replies = await read_all(call(running, "Attention", count, layers=[1], queries=[3, 19_999]))
    check_frame(replies, count)
    parts = [reply.chunk for reply in replies[1:-1]]
    assert max(len(part.weights.data) for part in parts) <= CHUNK_BYTES
    for query in (3, 19_999):
        heads = [head for part in parts if list(part.queries) == [query] for head in part.heads]
        assert heads == list(range(30))


async def test_the_lens_of_every_layer(running: Running) -> None:
    replies = await read_all(call(running, "LogitLens"))
    check_frame(replies)
    rows = {(reply.row.layer, reply.row.position): reply.row.logits for reply in replies[1:-1]}
    assert set(rows) == {(layer, p) for layer in range(N_LAYERS + 1) for p in range(5)}
    assert array(rows[2, 3].values).tolist() == [203.0] * 10, "the ten largest, if nothing is said"
    assert list(rows[2, 3].token_ids) == list(range(10))


async def test_full_rows_of_chosen_layers(running: Running) -> None:
    replies = await read_all(
        call(
            running,
            "LogitLens",
            layers=types_pb2.LayerSelection(layers=[-1, 0]),
            positions=pb.PositionRange(start=2),
            logits=logits_service_pb2.LogitsOptions(mode=logits_service_pb2.LOGITS_MODE_FULL),
        )
    )
    check_frame(replies)
    rows = [(reply.row.layer, reply.row.position) for reply in replies[1:-1]]
    assert sorted(rows) == [(0, 2), (0, 3), (0, 4), (2, 2), (2, 3), (2, 4)]
    assert running.handle.ready is not None
    assert len(replies[1].row.logits.values.data) == 4 * running.handle.ready.d_vocab


async def test_a_model_without_an_unembedding_has_no_lens(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, unembeds=False, causal=False) as running:
        code, message, reason = await failure(call(running, "LogitLens"))
        assert (code, reason) == (Code.UNIMPLEMENTED, "NOT_SERVED")
        assert "gives no logits" in message
        sites = [pb.Site(name="z")]
        code, message, _ = await failure(call(running, "Trace", sites=sites, max_new_tokens=1))
        assert (code, message) == (Code.INVALID_ARGUMENT, "max_new_tokens: 1 is not in [0, 0]")
        check_frame(await read_all(call(running, "Trace", sites=sites)))


Z = pb.Site(name="z")
BAD = [
    ("Trace", {}, "sites: has 0 entries; allowed are 1 to 256"),
    ("Trace", {"sites": [pb.Site(name="hook_z")]}, "sites[0].name: 'hook_z' is no site of this"),
    (
        "Trace",
        {"sites": [Z, pb.Site(name="q", heads=[9])]},
        "sites[1].heads[0]: 9 is not in [0, 1]",
    ),
    (
        "Trace",
        {"sites": [pb.Site(name="mlp_out", heads=[0])]},
        "sites[0].heads: mlp_out has no heads",
    ),
    ("Trace", {"sites": [pb.Site(name="z", layers=[0])]}, "sites[0].layers[0]: 0 is not in [1, 2]"),
    ("Trace", {"sites": [pb.Site(name="z", layers=[1, 1])]}, "sites[0].layers: 1 appears twice"),
    (
        "Trace",
        {"sites": [pb.Site(name="embed", layers=[1])]},
        "sites[0].layers: embed is in no layer",
    ),
    (
        "Trace",
        {"sites": [Z, pb.Site(name="z", layers=[2])]},
        "sites[1]: z of layer 2 is named twice",
    ),
    ("Trace", {"sites": [Z], "dtype": 4}, "dtype: must be FLOAT32, BFLOAT16 or FLOAT16"),
    ("Trace", {"sites": [Z], "max_new_tokens": 64}, "max_new_tokens: 64 is not in [0, 63]"),
    ("Trace", {"sites": [Z], "max_new_tokens": 60}, "input: 5 tokens and 60 new ones make 65"),
    (
        "Trace",
        {"sites": [Z], "positions": pb.PositionRange(start=3, end=3)},
        "positions: [3, 3) is empty",
    ),
    (
        "Trace",
        {"sites": [Z], "positions": pb.PositionRange(start=5)},
        "positions: [5, ) is not in [0, 5), the positions of the input",
    ),
    (
        "Trace",
        {"sites": [Z], "positions": pb.PositionRange(end=9), "max_new_tokens": 3},
        "positions: [0, 9) is not in [0, 8), the positions of the input and of new tokens",
    ),
    ("Attention", {"layers": [3]}, "layers[0]: 3 is not in [1, 2]"),
    ("Attention", {"heads": [0, 2]}, "heads[1]: 2 is not in [0, 1]"),
    ("Attention", {"queries": [5]}, "queries[0]: 5 is not in [0, 4]"),
    ("Attention", {"queries": [4, 4]}, "queries: 4 appears twice"),
    ("Attention", {"top_k": 65}, f"top_k: 65 is not in [0, {MAX_MODEL_LEN}]"),
    (
        "LogitLens",
        {"positions": pb.PositionRange(start=2, end=6)},
        "positions: [2, 6) is not in [0, 5)",
    ),
    (
        "LogitLens",
        {"layers": types_pb2.LayerSelection(layers=[3])},
        "layers.layers[0]: 3 is not in [-4, 2]",
    ),
    (
        "LogitLens",
        {"layers": types_pb2.LayerSelection(layers=[-1, 2])},
        "layers.layers: 2 appears twice",
    ),
    (
        "LogitLens",
        {"interventions": [types_pb2.Intervention(site="z", layers=[1])]},
        "interventions[0]: set add, scale or patch_from",
    ),
    ("Attention", {"input": types_pb2.Input()}, "input: set text, token_ids or chat"),
    ("LogitLens", {"input": ids(65)}, "input: has 65 tokens; the model takes 64"),
    # So many that reading them one by one would keep all others waiting.
    ("Attention", {"queries": [1] * 65}, "queries: has 65 entries; allowed are 0 to 64"),
    (
        "Trace",
        {"sites": [pb.Site(name="z", heads=[1] * 3)]},
        "sites[0].heads: has 3 entries; allowed are 0 to 2",
    ),
    (
        "LogitLens",
        {"layers": types_pb2.LayerSelection(layers=[1] * 5)},
        "layers.layers: has 5 entries; allowed are 0 to 4",
    ),
]


@pytest.mark.parametrize(("method", "fields", "message"), BAD)
async def test_errors_name_the_field_and_the_limit(
    running: Running, method: str, fields: dict[str, Any], message: str
) -> None:
    code, told, reason = await failure(call(running, method, **fields))
    assert (code, reason) == (Code.INVALID_ARGUMENT, "INVALID_FIELD")
    assert message in told
    assert not running.handle.jobs, "nothing ran"


@pytest.mark.parametrize(
    ("method", "fields", "num_bytes"),
    [
        ("Trace", {"sites": [pb.Site(name="resid_pre")], "max_new_tokens": 2}, 2 * 7 * 8 * 4),
        (
            "Trace",
            {"sites": [pb.Site(name="pattern")], "max_new_tokens": 2},
            2 * 2 * (25 + 6 + 7) * 4,
        ),
        ("Trace", {"sites": [pb.Site(name="embed")], "dtype": 2}, 5 * 8 * 2),
        ("Attention", {"top_k": 2}, 2 * 2 * 5 * 2 * 8),
        ("LogitLens", {}, 3 * 5 * 10 * 4),
    ],
)
async def test_a_reply_over_budget_is_refused_before_any_work(
    running: Running, method: str, fields: dict[str, Any], num_bytes: int
) -> None:
    refused = call(running, method, max_reply_bytes=num_bytes - 1, **fields)
    code, message, reason = await failure(refused)
    assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "REPLY_TOO_LARGE")
    assert f"would take {num_bytes} bytes; the limit is {num_bytes - 1}" in message
    assert not running.handle.jobs
    replies = await read_all(call(running, method, max_reply_bytes=num_bytes, **fields))
    assert replies[0].start.tensor_bytes == num_bytes


@pytest.mark.parametrize(
    ("method", "fields", "kept"),
    [
        ("Trace", {"sites": [pb.Site(name="pattern"), pb.Site(name="q")]}, 2 * 5 * 2 * 4 * 4),
        ("Attention", {"layers": [2]}, 5 * 2 * 4 * 4),
        ("Attention", {"rollout": True}, 2 * (5 * 2 * 4 * 4 + 5 * 5 * 4)),
        ("LogitLens", {"positions": pb.PositionRange(start=3)}, 3 * 2 * 8 * 4),
    ],
)
async def test_what_the_engine_would_keep_is_bounded(
    checkpoint: Path, method: str, fields: dict[str, Any], kept: int
) -> None:
    flags = ("--max-look-bytes", str(kept - 1))
    async with front_fakes.running_front(checkpoint, *flags) as running:
        code, message, reason = await failure(call(running, method, **fields))
        assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "REPLY_TOO_LARGE")
        limit = (
            f"what is kept of the text meanwhile would take {kept} bytes; the limit is {kept - 1}"
        )
        assert message == limit
        assert not running.handle.jobs
    async with front_fakes.running_front(checkpoint, "--max-look-bytes", str(kept)) as running:
        check_frame(await read_all(call(running, method, **fields)))


async def test_what_a_model_shows_is_told(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, "--max-look-bytes", "5000") as running:
        stub: Any = model_stub(running)
        model = (await stub.GetModel(model_service_pb2.GetModelRequest())).model
        sites = {site.name: site for site in model.sites}
        assert list(sites) == list(READY.sites)
        assert (sites["z"].per_layer, sites["z"].heads, sites["z"].width) == (True, 2, 4)
        assert (sites["mlp_post"].heads, sites["mlp_post"].width) == (0, 16)
        assert (sites["pattern"].width, sites["pattern"].changeable) == (0, False)
        assert (sites["embed"].per_layer, sites["embed"].changeable) == (False, True)
        assert model.limits.max_interventions == 64
        assert (model.limits.max_sites, model.limits.max_look_bytes) == (256, 5000)
    async with front_fakes.running_front(checkpoint, "--no-internals") as running:
        stub = model_stub(running)
        model = (await stub.GetModel(model_service_pb2.GetModelRequest())).model
        assert not model.sites
        assert model.limits.max_interventions == 0
        assert (model.limits.max_sites, model.limits.max_look_bytes) == (0, 0)
        served = {c.method.rpartition("/")[2] for c in model.capabilities if c.served}
        assert {"Generate", "Embed"} <= served
        assert not {"Trace", "Attention", "LogitLens"} & served
