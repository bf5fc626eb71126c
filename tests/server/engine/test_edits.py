"""Changes to the model for one sequence alone, against the same by hooks in transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract_requests import text
from engine_trace import News, Trace
from every_site import LAYERS
from headstream.model.outputs import LogitsSpec, Outputs, SamplingParams
from headstream.model.sites import Edit, SiteName, SiteSpec, TraceSpec
from headstream.server.engine.look import Look
from site_oracle import Change, SiteOracle
from tiny_models import DECODERS, ENCODERS

KINDS: list[Literal["add", "scale", "set"]] = ["add", "scale", "set"]
LENGTH = 40
STREAM = Look(TraceSpec((SiteSpec("resid_post", LAYERS), SiteSpec("ln_final", (3,)))))
HEADS: dict[SiteName, int] = {"q": 4, "k": 2, "v": 2, "z": 4}
WIDTHS: dict[SiteName, int] = {
    "embed": 64,
    "resid_pre": 64,
    "resid_mid": 64,
    "resid_post": 64,
    "q": 16,
    "k": 16,
    "v": 16,
    "z": 16,
    "attn_out": 64,
    "mlp_post": 128,
    "mlp_out": 64,
}


def numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def make_edit(
    site: SiteName, kind: Literal["add", "scale", "set"], width: int | None = None
) -> Edit:
    """A change of some positions and heads."""
    layers, start, end, width = (0,) if site == "embed" else (1, 3), 5, 17, width or WIDTHS[site]
    heads = (0, HEADS[site] - 1) if site in HEADS else ()
    shape = (len(layers), end - start, *([len(heads)] if heads else []), width)
    values = {"add": numbers(width), "set": numbers(*shape), "scale": numbers(0)}[kind]
    factor = {"add": 1.5, "set": 1.0, "scale": 0.0}[kind]
    return Edit(site, kind, layers, heads, start, end, factor, values.tobytes())


def by_hooks(edits: Sequence[Edit]) -> Change:
    """The same on rows of transformers."""

    def change(site: str, layer: int, rows: Tensor) -> None:
        for edit in edits:
            if edit.site != site or layer not in edit.layers:
                continue
            part = rows[edit.start : edit.end]  # [n, width] or [n, heads, width]
            values = torch.from_numpy(np.frombuffer(edit.values, np.float32).copy())
            for place, head in enumerate(edit.heads or [None]):
                own = part if head is None else part[:, head]
                if edit.kind == "add":
                    own += edit.factor * values
                elif edit.kind == "scale":
                    own *= edit.factor
                else:
                    shape = (len(edit.layers), len(part), max(1, len(edit.heads)), -1)
                    own.copy_(values.view(shape)[edit.layers.index(layer), :, place])

    return change


def stream(news: News, length: int) -> NDArray[Any]:
    """[4, n, d]"""
    places: list[tuple[SiteName, int]] = [("resid_post", layer) for layer in LAYERS]
    places.append(("ln_final", 3))
    return np.stack([[news.sites[*place, i] for i in range(length)] for place in places])


def check_equal(news: News, oracle: SiteOracle, length: int) -> None:
    theirs = [oracle.values["resid_post", layer] for layer in LAYERS]
    theirs.append(oracle.values["ln_final", 3])
    np.testing.assert_allclose(
        stream(news, length), torch.stack(theirs).numpy(), atol=2e-5, rtol=2e-5
    )


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_every_change_of_every_site_equals_a_hook(
    family: str, gentle: dict[str, Path], cache_dir: Path
) -> None:
    """All of them run together in the same steps, beside one that changes nothing."""
    trace, oracle = Trace(gentle[family], cache_dir), SiteOracle(gentle[family])
    ids = text(5, LENGTH)
    d_mlp = trace.runner.model.config.d_mlp
    edits = [
        make_edit(site, kind, d_mlp if site == "mlp_post" else None)
        for site in WIDTHS
        for kind in KINDS
    ]
    plain = trace.submit(ids, look=STREAM)
    edited = [trace.submit(ids, look=STREAM, edits=(edit,)) for edit in edits]
    trace.run()
    assert max(report.stats.num_seqs for report in trace.reports) > 4
    check_equal(trace.news[plain], oracle.run(ids), LENGTH)
    for edit, sequence_id in zip(edits, edited, strict=True):
        news = trace.news[sequence_id]
        assert news.finish == "length", (edit.site, edit.kind, news.error)
        difference = np.abs(stream(news, LENGTH) - stream(trace.news[plain], LENGTH))
        assert difference[:, 5:].max() > 1e-2, f"{edit.site} {edit.kind} does nothing"
        if family in DECODERS:
            assert difference[:, :5].max() == 0.0, "rows before the change are the same bits"
        check_equal(news, oracle.run(ids, by_hooks([edit])), LENGTH)


@pytest.mark.parametrize("family", DECODERS)
def test_generated_tokens_are_changed_too(
    family: str, gentle: dict[str, Path], cache_dir: Path
) -> None:
    """Several changes in order, one without an end, one that begins behind the prompt."""
    trace, oracle = Trace(gentle[family], cache_dir), SiteOracle(gentle[family])
    ids = text(5, 20)
    edits = (
        Edit("resid_post", "add", (2,), values=numbers(64).tobytes(), factor=2.0),
        Edit("z", "scale", (1, 2), (1, 2), 22, None, -0.5),
        Edit("resid_post", "scale", (2,), (), 10, 28, 0.7),
    )
    full = Outputs(logits=LogitsSpec("full"))
    plain = trace.submit(ids, 12, outputs=full)
    edited = trace.submit(ids, 12, outputs=full, edits=edits)
    trace.run()
    news = trace.news[edited]
    assert len(news.token_ids) == 12
    oracle.run(ids + news.token_ids, by_hooks(edits))
    for step, logits in enumerate(news.logits):
        theirs = oracle.logits[19 + step].numpy()
        np.testing.assert_allclose(logits, theirs, atol=2e-5, rtol=2e-5)
    assert np.abs(news.logits[0] - trace.news[plain].logits[0]).max() > 1e-2


def test_a_patched_site_gives_the_other_text(gentle: dict[str, Path], cache_dir: Path) -> None:
    """The whole stream of another text, put in at one layer, gives the logits of that text."""
    trace = Trace(gentle["gemma3"], cache_dir)
    one, other = text(5, LENGTH), text(6, LENGTH)
    full = Outputs(logits=LogitsSpec("full"))
    source = trace.submit(other, 1, look=STREAM, outputs=full)
    trace.run()
    rows = np.stack([trace.news[source].sites["resid_post", 2, i] for i in range(LENGTH)])
    patch = Edit("resid_post", "set", (2,), (), 0, LENGTH, values=rows.tobytes())
    patched = trace.submit(one, 1, outputs=full, edits=(patch,))
    trace.run()
    assert trace.news[patched].logits[0].tobytes() == trace.news[source].logits[0].tobytes()


def test_siblings_branches_and_forks_are_changed(gentle: dict[str, Path], cache_dir: Path) -> None:
    trace = Trace(gentle["gemma3"], cache_dir)
    ids, edits = text(5, LENGTH), (make_edit("mlp_out", "add"), Edit("z", "scale", (2,), (0,), 41))
    sampling = SamplingParams(temperature=1.0, seed=7)
    full = Outputs(logits=LogitsSpec("full"))
    several = trace.submit_all(ids, 6, seeds=[8], sampling=sampling, outputs=full, edits=edits)
    alone = [
        trace.submit(
            ids, 6, sampling=SamplingParams(temperature=1.0, seed=seed), outputs=full, edits=edits
        )
        for seed in (7, 8)
    ]
    trace.run()
    for one, lone in zip(several, alone, strict=True):
        assert trace.news[one].token_ids == trace.news[lone].token_ids
    tokens = trace.news[alone[0]].token_ids
    branch = trace.submit(ids, branch=True, outputs=full, edits=edits)
    trace.run()
    twin = trace.fork(branch)
    for each in (branch, twin):
        sequence = trace.scheduler.get(each)
        assert sequence is not None
        trace.scheduler.branches.append(sequence, tokens[:5])
    trace.run()
    expected = [row.tobytes() for row in trace.news[alone[0]].logits]
    assert [row for _, row in trace.news[branch].logit_rows] == expected
    assert [row for _, row in trace.news[twin].logit_rows] == expected[1:]


def test_cached_prompts_are_those_of_the_same_changes(
    gentle: dict[str, Path], cache_dir: Path
) -> None:
    trace = Trace(gentle["gemma3"], cache_dir)
    ids, full = text(5, 600), Outputs(logits=LogitsSpec("full"))
    added = make_edit("resid_post", "add")
    changes: list[tuple[Edit, ...]] = [
        (),
        (added,),
        (added.with_values((-numbers(64)).tobytes()),),
        (make_edit("resid_post", "scale"),),
    ]
    logits: list[bytes] = []
    for edits in changes:
        before = trace.scheduler.hit_tokens
        first = trace.submit(ids, 1, outputs=full, edits=edits)
        trace.run()
        assert trace.scheduler.hit_tokens == before, "another model's keys and values"
        again = trace.submit(ids, 1, outputs=full, edits=edits)
        trace.run()
        assert trace.scheduler.hit_tokens == before + 512
        assert trace.news[again].logits[0].tobytes() == trace.news[first].logits[0].tobytes()
        logits.append(trace.news[first].logits[0].tobytes())
    assert len(set(logits)) == 4


def test_values_are_hashed_where_an_edit_is_made_and_not_again() -> None:
    """The engine takes the digest that comes with them; each sequence of a request has it."""
    edit = make_edit("resid_post", "add")
    assert edit.values_digest not in {b"", edit.with_values(bytes(256)).values_digest}
    told = dataclasses.replace(edit, values_digest=b"told")
    [arrived] = msgspec.msgpack.decode(msgspec.msgpack.encode((told,)), type=tuple[Edit, ...])
    assert arrived == told


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit("pattern", "scale", (1,), (0,)), "cannot be changed"),
        (Edit("z", "scale", (4,), (0,)), "layers: 4"),
        (Edit("z", "scale", (1,), (4,)), "heads: 4"),
        (Edit("z", "scale", (1,)), "no heads"),
        (Edit("resid_post", "add", (1,), values=bytes(4 * 63)), "252 bytes for 64"),
        (Edit("resid_post", "set", (1,), values=bytes(4 * 64)), "a range that ends"),
        (Edit("mlp_post", "set", (1, 2), (), 3, 5, values=bytes(4 * 128)), "512 bytes for 512"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    edit: Edit, message: str, gentle: dict[str, Path], cache_dir: Path
) -> None:
    trace = Trace(gentle["llama"], cache_dir)
    refused = trace.submit([1, 2, 3], 2, edits=(edit,))
    beside = trace.submit([1, 2, 3], 2)
    trace.run()
    assert trace.news[refused].finish == "error"
    assert message in trace.news[refused].error
    assert len(trace.news[beside].token_ids) == 2


def test_values_beyond_all_numbers_harm_nobody_else(
    gentle: dict[str, Path], cache_dir: Path
) -> None:
    """Infinities and what is no number stay in the rows of who put them there."""
    requests: list[dict[str, Any]] = [
        {"token_ids": text(i, 30 + i), "max_new_tokens": 20, "sampling": sampling}
        for i, sampling in enumerate(
            [SamplingParams(), SamplingParams(temperature=1.0, top_p=0.9, seed=3)]
        )
    ]
    for dtype in ("float32", "bfloat16"):
        alone = Trace(gentle["gemma3"], cache_dir, dtype=dtype)
        lone = [alone.submit(**request) for request in requests]
        alone.run()
        trace = Trace(gentle["gemma3"], cache_dir, dtype=dtype, prefix_caching=False)
        for value in (np.inf, np.nan, 3e38):
            values = np.full(64, value, np.float32).tobytes()
            edit = Edit("resid_post", "add", (1,), factor=1.0, values=values)
            ill = [trace.submit(**request, edits=(edit,), look=STREAM) for request in requests]
            well = [trace.submit(**request) for request in requests]
            trace.run()
            assert all(trace.news[each].finish for each in ill)
            for each, other in zip(well, lone, strict=True):
                assert trace.news[each].token_ids == alone.news[other].token_ids
        assert trace.scheduler.num_blocks_used == 0
