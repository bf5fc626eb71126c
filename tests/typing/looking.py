"""What users may write to look inside and to change what goes on there. Checked, never run."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np

from headstream.client import (
    Add,
    AsyncClient,
    AsyncTraceStream,
    AttentionWeights,
    Client,
    Intervention,
    LogitLens,
    Patch,
    Scale,
    Site,
    SiteInfo,
    TopLogits,
    Trace,
    TracedToken,
    TraceStream,
)

Array = np.ndarray[Any, np.dtype[Any]]


def looking(client: Client) -> None:
    trace = client.trace(
        "a",
        ["resid_post", Site("z", layers=[3], heads=[0, 1]), "blocks.2.hook_mlp_out"],
        positions=(1, None),
        max_new_tokens=3,
        dtype="float16",
        timeout=5.0,
    )
    assert_type(trace, Trace)
    assert_type(trace["blocks.2.hook_resid_post"], Array)
    assert_type(trace.values("z", 3), Array)
    assert_type(trace.values("embed"), Array)
    assert_type(trace.to_transformer_lens(), dict[str, Array])
    assert_type(trace.generated_ids, list[int])
    assert_type(trace.tokens, list[str])
    with client.trace_stream([1, 2], Site("q"), max_new_tokens=3) as stream:
        assert_type(stream, TraceStream)
        for token in stream:
            assert_type(token, TracedToken)
            assert_type(token.token_id, int)
        assert_type(stream.result(), Trace)
    attention = client.attention("a", layers=[1], heads=[0], queries=[3], top_k=2, model="m")
    assert_type(attention, AttentionWeights)
    assert_type(attention.pattern(1, 0), Array)
    assert_type(attention.keys, Array | None)
    lens = client.logit_lens("a", layers=[0, -1], logits="full", logprobs=True)
    assert_type(lens, LogitLens)
    assert_type(lens.logits, Array | TopLogits)
    assert_type(client.model().sites, tuple[SiteInfo, ...])
    Site("resid")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.attention("a", layer=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def changing(client: Client, vector: Array) -> None:
    changes: list[Intervention] = [
        Add("resid_post", 3, vector, positions=(2, 5), factor=2.0),
        Add("z", [1, 2], [0.5, 1.0], heads=[0]),
        Scale("mlp_out", [4], 0.0),
        Patch("resid_mid", 2, "another text", positions=(0, None)),
    ]
    client.generate("a", interventions=changes)
    client.decode("a", interventions=[Scale("z", 1, 0.0, heads=[3])])
    client.score("a", interventions=changes)
    client.embed("a", interventions=changes)
    client.embed_spans("abc", [(0, 1)], interventions=changes)
    client.embed_each(["a"], interventions=changes)
    client.embed_tokens("a", interventions=changes)
    client.embed_stream(["a"], interventions=changes)
    client.trace("a", "q", interventions=changes)
    client.attention("a", interventions=changes)
    client.logit_lens("a", interventions=changes)


async def looking_async(client: AsyncClient) -> None:
    assert_type(await client.trace("a", "q"), Trace)
    stream = client.trace_stream("a", "q")
    assert_type(stream, AsyncTraceStream)
    async for token in stream:
        assert_type(token, TracedToken)
    assert_type(await stream.result(), Trace)
    assert_type(await client.attention("a"), AttentionWeights)
    assert_type(await client.logit_lens("a"), LogitLens)
