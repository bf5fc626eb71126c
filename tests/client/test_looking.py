"""`trace`, `attention` and `logit_lens` of both clients, over a server that answers as told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from client_messages import tensor
from headstream.client import (
    Add,
    AsyncClient,
    Client,
    InvalidArgument,
    Patch,
    Scale,
    Site,
    StreamBroken,
    TopLogits,
    Unimplemented,
)
from headstream.v1 import internals_service_pb2 as pb
from headstream.v1 import logits_service_pb2, tensor_pb2, types_pb2
from scripted_server import Script

N = 3


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    with Client(script.address, timeout=5, stream_timeout=5) as client:
        yield client


def start(*, rotary: bool = False) -> pb.TraceStart:
    tokens = types_pb2.TokenTable(
        ids=[7, 8, 9],
        surfaces=[b"a", b" b", b" c"],
        byte_starts=[0, 1, 3],
        byte_ends=[1, 3, 5],
        char_starts=[0, 1, 3],
        char_ends=[1, 3, 5],
        special=[True, False, False],
    )
    return pb.TraceStart(tokens=tokens, request_id="r7", rotary=rotary)


def end(num_bytes: int) -> pb.TraceEnd:
    return pb.TraceEnd(usage=types_pb2.Usage(input_tokens=N, tensor_bytes=num_bytes))


def chunk(site: str, layer: int, first: int, values: Any) -> pb.TraceResponse:
    made = pb.SiteChunk(site=site, layer=layer, start=first, values=tensor(values))
    return pb.TraceResponse(values=pb.SiteChunks(chunks=[made]))


def finished(events: list[Any], kind: Any) -> list[Any]:
    """The events with a start in front of them, and an end that counts their bytes."""
    size = 0
    for event in events:
        if event.WhichOneof("event") == "row":
            size += len(event.row.logits.values.data)
        elif event.WhichOneof("event") == "values":
            size += sum(len(chunk.values.data) for chunk in event.values.chunks)
        elif event.WhichOneof("event") == "chunk":
            chunk = event.chunk
            size += sum(
                len(value.data)
                for field, value in chunk.ListFields()
                if field.name in {"values", "weights", "keys"}
            )
    return [kind(start=start()), *events, kind(end=end(size))]


RESID = np.arange(12, dtype="<f4").reshape(3, 4)
Z = np.arange(24, dtype="<f4").reshape(3, 2, 4)
PATTERN = np.tril(np.ones((3, 3), "<f4"))[:, None] * np.arange(1, 3)[:, None]  # [n, H, K]
EVENTS = [
    chunk("embed", 0, 0, RESID + 100),
    chunk("resid_post", 2, 0, RESID[:2]),
    chunk("q", 1, 0, Z),
    chunk("pattern", 1, 0, PATTERN),
    chunk("mlp_post", 1, 0, RESID),
    chunk("resid_post", 2, 2, RESID[2:]),
]


def test_a_trace_by_both_kinds_of_names(script: Script, client: Client) -> None:
    script.trace = lambda request, context: iter(finished(EVENTS, pb.TraceResponse))
    trace = client.trace("a b c", "resid_post")
    assert (trace.tokens, trace.token_ids, len(trace)) == (["a", " b", " c"], [7, 8, 9], 3)
    assert np.array_equal(trace["blocks.1.hook_resid_post"], RESID)
    assert np.array_equal(trace.values("resid_post", 2), RESID)
    assert np.array_equal(trace.values("embed"), RESID + 100)
    assert trace["blocks.0.attn.hook_q"].shape == (3, 2, 4)
    assert (trace.start, trace.request_id, trace.usage.input_tokens) == (0, "r7", 3)
    for missing in (
        "blocks.2.hook_resid_post",
        "blocks.0.hook_z",
        "resid_post",
        "blocks.1.mlp.hook_pre",
    ):
        with pytest.raises(KeyError):
            trace[missing]


@pytest.mark.parametrize("rotary", [False, True])
def test_as_transformer_lens_has_it(script: Script, client: Client, rotary: bool) -> None:
    events = finished(EVENTS, pb.TraceResponse)
    events[0] = pb.TraceResponse(start=start(rotary=rotary))
    script.trace = lambda request, context: iter(events)
    trace = client.trace("a b c", "q")
    cache = trace.to_transformer_lens()
    assert set(cache) == {
        "hook_embed",
        "blocks.1.hook_resid_post",
        "blocks.0.attn.hook_rot_q" if rotary else "blocks.0.attn.hook_q",
        "blocks.0.attn.hook_pattern",
        "blocks.0.mlp.hook_post",
    }
    assert cache["hook_embed"].shape == (1, 3, 4), "batch, pos, d"
    assert cache["blocks.0.attn.hook_pattern"].shape == (1, 2, 3, 3), "batch, head, query, key"
    assert np.array_equal(cache["blocks.0.attn.hook_pattern"][0, 1], 2 * np.tril(np.ones((3, 3))))
    for hook, values in cache.items():
        ours = trace[hook]
        assert np.array_equal(values[0], ours.swapaxes(0, 1) if "pattern" in hook else ours)


def test_what_is_asked_for(script: Script, client: Client) -> None:
    script.trace = lambda request, context: iter(finished(EVENTS, pb.TraceResponse))
    client.trace(
        [1, 2],
        [
            "z",
            Site("q", layers=[2], heads=[0, 1]),
            "blocks.4.hook_mlp_out",
            "blocks.6.hook_mlp_out",
            "hook_embed",
        ],
        positions=(1, 9),
        max_new_tokens=3,
        dtype="bfloat16",
        model="m",
    )
    [request] = script.requests
    assert [(site.name, list(site.layers), list(site.heads)) for site in request.sites] == [
        ("z", [], []),
        ("q", [2], [0, 1]),
        ("mlp_out", [5, 7], []),
        ("embed", [], []),
    ]
    assert (request.positions.start, request.positions.end) == (1, 9)
    assert (request.max_new_tokens, request.dtype) == (3, tensor_pb2.DATA_TYPE_BFLOAT16)
    assert (request.model, list(request.input.token_ids.ids)) == ("m", [1, 2])
    with pytest.raises(ValueError, match="site 'resid' is none of embed, "):
        client.trace("a", "resid")


def generated() -> list[Any]:
    """Two tokens: values before the id that follows them; each has a key more."""
    row = RESID[:1]
    return [
        chunk("pattern", 1, 0, PATTERN),
        chunk("resid_post", 1, 0, RESID),
        pb.TraceResponse(generated_token_id=40),
        chunk("pattern", 1, 3, np.full((1, 2, 4), 0.25)),
        chunk("resid_post", 1, 3, row + 50),
        pb.TraceResponse(generated_token_id=41),
        chunk("pattern", 1, 4, np.full((1, 2, 5), 0.2)),
        chunk("resid_post", 1, 4, row + 60),
    ]


def stacked(token_id: int | None, *parts: tuple[str, list[int], int, Any]) -> pb.TraceResponse:
    """Values [layers, rows, ..] of sites, and the token behind them, in one event."""
    made = [
        pb.SiteChunk(site=site, layers=layers, start=first, values=tensor(values))
        for site, layers, first, values in parts
    ]
    return pb.TraceResponse(values=pb.SiteChunks(chunks=made, generated_token_id=token_id))


def generated_together() -> list[Any]:
    """The same as `generated`, with a second layer of the stream, in the form that is asked for."""
    rows = [np.stack([rows, rows + 1000]) for rows in (RESID, RESID[:1] + 50, RESID[:1] + 60)]
    return [
        stacked(None, ("pattern", [1], 0, PATTERN[None])),  # more than goes in one message
        stacked(40, ("resid_post", [1, 3], 0, rows[0])),
        stacked(
            41,
            ("pattern", [1], 3, np.full((1, 1, 2, 4), 0.25)),
            ("resid_post", [1, 3], 3, rows[1]),
        ),
        stacked(
            None,
            ("pattern", [1], 4, np.full((1, 1, 2, 5), 0.2)),
            ("resid_post", [1, 3], 4, rows[2]),
        ),
    ]


def check_generated(tokens: list[Any], trace: Any) -> None:
    assert [(token.position, token.token_id) for token in tokens] == [(3, 40), (4, 41)]
    assert tokens[0].values["resid_post", 1].tolist() == [50, 51, 52, 53]
    assert tokens[1].values["pattern", 1].shape == (2, 5)
    assert trace.generated_ids == [40, 41]
    assert trace.values("resid_post", 1).shape == (5, 4)
    pattern = trace.values("pattern", 1)
    assert pattern.shape == (5, 2, 5)
    assert np.array_equal(pattern[:3, :, :3], PATTERN)
    assert not pattern[:3, :, 3:].any(), "keys that were not there weigh nothing"
    assert pattern[3, 0].tolist() == [0.25] * 4 + [0]


def test_layers_and_tokens_that_come_together(script: Script, client: Client) -> None:
    script.trace = lambda request, context: iter(finished(generated_together(), pb.TraceResponse))
    with client.trace_stream("a b c", ["pattern", "resid_post"], max_new_tokens=2) as stream:
        tokens = list(stream)
        trace = stream.result()
    assert script.requests[0].stacked, "the form that costs less is asked for"
    check_generated(tokens, trace)
    for token in tokens:
        assert set(token.values) == {("pattern", 1), ("resid_post", 1), ("resid_post", 3)}
        first, third = token.values["resid_post", 1], token.values["resid_post", 3]
        assert np.array_equal(third, first + 1000)
    third = trace.values("resid_post", 3)
    assert np.array_equal(third, trace.values("resid_post", 1) + 1000)


def test_generated_tokens_one_by_one(script: Script, client: Client) -> None:
    script.trace = lambda request, context: iter(finished(generated(), pb.TraceResponse))
    with client.trace_stream("a b c", ["pattern", "resid_post"], max_new_tokens=2) as stream:
        tokens = list(stream)
        check_generated(tokens, stream.result())


async def test_generated_tokens_one_by_one_async(script: Script) -> None:
    script.trace = lambda request, context: iter(finished(generated(), pb.TraceResponse))
    async with AsyncClient(script.address, stream_timeout=5) as client:
        stream = client.trace_stream("a b c", ["pattern", "resid_post"], max_new_tokens=2)
        async with stream:
            tokens = [token async for token in stream]
            check_generated(tokens, await stream.result())
        trace = await client.trace("a b c", "resid_post", max_new_tokens=2)
        check_generated(tokens, trace)


def test_unseen_scores_are_minus_infinity(script: Script, client: Client) -> None:
    events = [
        chunk("attn_scores", 1, 0, PATTERN),
        pb.TraceResponse(generated_token_id=40),
        chunk("attn_scores", 1, 3, np.ones((1, 2, 4))),
    ]
    script.trace = lambda request, context: iter(finished(events, pb.TraceResponse))
    scores = client.trace("a b c", "attn_scores", max_new_tokens=1).values("attn_scores", 1)
    assert (scores[:3, :, 3] == -np.inf).all()
    assert (scores[3] == 1).all()


def weights(layer: int, heads: list[int], queries: list[int], values: Any, keys: Any = None) -> Any:
    made = pb.AttentionChunk(layer=layer, heads=heads, queries=queries, weights=tensor(values))
    if keys is not None:
        array = np.asarray(keys, "<i4")
        made.keys.CopyFrom(
            tensor_pb2.Tensor(
                dtype=tensor_pb2.DATA_TYPE_INT32, shape=array.shape, data=array.tobytes()
            )
        )
    return pb.AttentionResponse(chunk=made)


def test_attention_is_put_together_from_cuts_over_heads_and_queries(
    script: Script, client: Client
) -> None:
    whole = np.arange(2 * 2 * 2 * 3, dtype="<f4").reshape(
        2, 2, 2, 3
    )  # layers, heads, queries, keys
    events = [
        weights(4, [1, 3], [0], whole[0, :, :1]),
        weights(4, [1], [2], whole[0, :1, 1:]),
        weights(4, [3], [2], whole[0, 1:, 1:]),
        weights(6, [1, 3], [0, 2], whole[1]),
    ]
    script.attention = lambda request, context: iter(finished(events, pb.AttentionResponse))
    attention = client.attention("a b c", layers=[6, 4], heads=[3, 1], queries=[2, 0])
    assert (attention.layers, attention.heads, attention.queries) == ([4, 6], [1, 3], [0, 2])
    assert np.array_equal(attention.weights, whole)
    assert np.array_equal(attention.pattern(6, 3), whole[1, 1])
    assert attention.keys is None
    assert attention.tokens[1] == " b"
    with pytest.raises(ValueError, match="5"):
        attention.pattern(5, 3)
    with pytest.raises(ValueError, match="None"):
        attention.pattern(4)
    [request] = script.requests
    assert (list(request.layers), list(request.heads), list(request.queries)) == (
        [6, 4],
        [3, 1],
        [2, 0],
    )


def test_averaged_top_keys(script: Script, client: Client) -> None:
    events = [
        weights(0, [], [0, 1, 2], [[[1, 0], [0.5, 0.5], [0.75, 0.25]]], [[[0, 1], [0, 1], [2, 0]]])
    ]
    script.attention = lambda request, context: iter(finished(events, pb.AttentionResponse))
    attention = client.attention("a b c", top_k=2, rollout=True, dtype="float16")
    assert (attention.layers, attention.heads) == ([0], [])
    assert attention.pattern(0).tolist() == [[1, 0], [0.5, 0.5], [0.75, 0.25]]
    assert attention.keys is not None
    assert attention.keys[0, 0].tolist() == [[0, 1], [0, 1], [2, 0]]
    [request] = script.requests
    assert (request.top_k, request.rollout, request.average_heads) == (2, True, False)


def row(layer: int, position: int, values: Any, ids: Any = ()) -> pb.LogitLensResponse:
    logits = logits_service_pb2.Logits(values=tensor(values), token_ids=ids)
    return pb.LogitLensResponse(row=pb.LogitLensRow(layer=layer, position=position, logits=logits))


def test_the_lens_as_arrays(script: Script, client: Client) -> None:
    events = [row(2, p, [2.0 + p, 1.0], [9, p]) for p in (1, 2)]
    events += [row(0, p, [p, 0.0], [5, 6]) for p in (1, 2)]
    script.logit_lens = lambda request, context: iter(finished(events, pb.LogitLensResponse))
    lens = client.logit_lens(
        "a b c", layers=[0, -1], positions=(1, None), top_logits=2, logprobs=True
    )
    assert (lens.layers, lens.positions) == ([0, 2], [1, 2])
    assert isinstance(lens.logits, TopLogits)
    assert lens.logits.values.tolist() == [[[1, 0], [2, 0]], [[3, 1], [4, 1]]]
    assert lens.logits.token_ids.tolist() == [[[5, 6], [5, 6]], [[9, 1], [9, 2]]]
    [request] = script.requests
    assert (list(request.layers.layers), request.positions.start) == ([0, -1], 1)
    assert (request.logits.top_k, request.logits.scale) == (
        2,
        logits_service_pb2.LOGITS_SCALE_LOGPROBS,
    )
    with pytest.raises(ValueError, match="gives nothing else"):
        client.logit_lens("a", logits="none")


def test_chosen_logits_have_no_ids(script: Script, client: Client) -> None:
    events = [row(1, 0, [0.5, -0.5])]
    script.logit_lens = lambda request, context: iter(finished(events, pb.LogitLensResponse))
    lens = client.logit_lens("a", logits=[7, 3])
    assert np.array_equal(lens.logits, [[[0.5, -0.5]]])  # type: ignore[arg-type]


def test_changes_go_with_every_request(script: Script, client: Client) -> None:
    changes = [
        Add("resid_post", 3, np.array([1.0, -2.0]), positions=(2, None), factor=0.5),
        Scale("z", [1, 2], 0.0, heads=[4]),
        Patch("mlp_out", [5], "other", positions=(0, 4)),
    ]
    calls = {
        "generate": lambda: list(client.generate("a", interventions=changes)),
        "score": lambda: client.score("a", interventions=changes),
        "embed": lambda: client.embed("a", interventions=changes),
        "embed_tokens": lambda: client.embed_tokens("a", interventions=changes),
        "trace": lambda: client.trace("a", "z", interventions=changes),
        "attention": lambda: client.attention("a", interventions=changes),
        "logit_lens": lambda: client.logit_lens("a", interventions=changes),
    }
    for call in calls.values():
        with pytest.raises(Unimplemented):  # the script serves none of them
            call()
    assert len(script.requests) == len(calls)
    for request in script.requests:
        add, scale, patch = request.interventions
        assert (add.site, list(add.layers), add.position_start) == ("resid_post", [3], 2)
        assert not add.HasField("position_end")
        assert np.frombuffer(add.add.vector, "<f4").tolist() == [1.0, -2.0]
        assert add.add.factor == 0.5
        assert (list(scale.layers), list(scale.heads)) == ([1, 2], [4])
        assert scale.WhichOneof("action") == "scale", "zero is said"
        assert scale.scale == 0.0
        assert (patch.patch_from.text, patch.position_end) == ("other", 4)


def test_a_stream_of_texts_has_them_in_front(script: Script, client: Client) -> None:
    seen: list[Any] = []

    def answer(requests: Any, context: Any) -> Iterator[Any]:
        seen.extend(requests)
        return iter(())

    script.embed_stream = answer
    with pytest.raises(StreamBroken):
        list(client.embed_stream(["a"], interventions=[Scale("z", 1, 0.0)]))
    assert [len(message.interventions) for message in seen] == [1, 0]


def test_a_layer_may_be_found_with_numpy(script: Script, client: Client) -> None:
    best: Any = np.argmax([0.1, 0.2, 0.9, 0.3])
    with pytest.raises(Unimplemented):
        list(client.generate("a", interventions=[Scale("z", best, 0.0, heads=[best])]))
    [change] = script.requests[0].interventions
    assert (list(change.layers), list(change.heads)) == ([2], [2])


def test_a_vector_is_a_list_of_numbers(client: Client) -> None:
    with pytest.raises(ValueError, match="the vector of resid_post has 2 axes, not one"):
        client.generate("a", interventions=[Add("resid_post", 1, np.ones((2, 2)))])


@pytest.mark.parametrize("method", ["trace", "attention", "logit_lens"])
def test_a_stream_without_its_end_or_its_values_was_broken(
    script: Script, client: Client, method: str
) -> None:
    kinds = {
        "trace": pb.TraceResponse,
        "attention": pb.AttentionResponse,
        "logit_lens": pb.LogitLensResponse,
    }
    events = {
        "trace": EVENTS,
        "attention": [weights(1, [0], [0, 1, 2], [np.eye(3)])],
        "logit_lens": [row(0, 0, [1.0])],
    }[method]
    whole = finished(events, kinds[method])

    def call() -> Any:
        more = {"sites": "z"} if method == "trace" else {}
        return getattr(client, method)("a", **more)

    setattr(script, method, lambda request, context: iter(whole))
    call()
    setattr(script, method, lambda request, context: iter(whole[:-1]))
    with pytest.raises(StreamBroken):
        call()
    setattr(script, method, lambda request, context: iter([*whole[:1], *whole[2:]]))
    with pytest.raises(StreamBroken):
        call()


def test_a_refusal_names_the_field(script: Script, client: Client) -> None:
    import grpc

    def refuse(request: Any, context: Any) -> Iterator[Any]:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "sites[0].heads[0]: 9 is not in [0, 3]")
        yield

    script.trace = refuse
    with pytest.raises(InvalidArgument, match="9 is not in"):
        client.trace("a", Site("z", heads=[9]))
    with pytest.raises(InvalidArgument, match="9 is not in"):
        list(client.trace_stream("a", Site("z", heads=[9])))
