"""The contract with looks and changes in the batch: nobody's bits depend on anybody else's."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract_requests import PROMPT, Case
from engine_crowd import crowd
from engine_trace import DTYPES, News, Trace, alone, same
from every_site import LAYERS, every_site
from headstream.model.outputs import LogitsSpec, Outputs, PoolSpec, SamplingParams
from headstream.model.sites import Edit, LensSpec, PatternSpec, TraceSpec
from headstream.server.engine.look import Look
from tiny_models import DECODERS, ENCODERS, save_tiny

HEADS = (0, 1, 2, 3)
VECTOR = np.random.default_rng(3).normal(size=64).astype(np.float32)
EDITS = (
    Edit("resid_post", "add", (1,), (), 100, None, 2.0, VECTOR.tobytes()),
    Edit("z", "scale", LAYERS, (1,), 0, None, 0.0),
    Edit("mlp_out", "add", (2, 3), (), 0, 580, -1.0, VECTOR.tobytes()),
    Edit("attn_out", "scale", (3,), (), 300, None, 1.5),
    Edit("resid_mid", "set", (2,), (), 590, 592, values=np.tile(VECTOR, 2).tobytes()),
)


def looks(trace: Trace, family: str) -> dict[str, dict[str, Any]]:
    """Requests that look inside, or change what is there."""
    sampling = SamplingParams(temperature=1.5, top_p=0.95, seed=5)
    generating: dict[str, Any] = {"max_new_tokens": 6, "sampling": sampling}
    own = {} if family in ENCODERS else generating
    edited = {"outputs": Outputs(pool=PoolSpec(2, "mean", (tuple(range(600)),)))}
    if family in DECODERS:
        edited = {"outputs": Outputs(logits=LogitsSpec("full"))} | generating
    patterns = PatternSpec(LAYERS, HEADS, tuple(range(250, 600)))
    queries = (255, 256, 599)
    requests: dict[str, dict[str, Any]] = {
        "trace": {"look": Look(TraceSpec(every_site(trace), 500))} | own,
        "attention": {"look": Look(attention=patterns)},
        "rollout": {"look": Look(attention=PatternSpec(LAYERS, HEADS, queries, rollout=True))},
        "edited": {"edits": EDITS} | edited,
        "traced and edited": {"look": Look(TraceSpec(every_site(trace), 590)), "edits": EDITS},
    }
    if family in DECODERS:
        full = LogitsSpec("top", 9)
        requests["lens"] = {"look": Look(lens=LensSpec((0, 1, 2, 3), 400, 600, full))}
    return {name: {"token_ids": PROMPT} | request for name, request in requests.items()}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directory of a small model of each family."""
    families = (*DECODERS, *ENCODERS)
    return {family: save_tiny(family, tmp_path_factory.mktemp(family)) for family in families}


@pytest.fixture(params=["native", "torch"])
def kernels(request: pytest.FixtureRequest) -> str:
    """What engines compute with."""
    name: str = request.param
    if name == "torch":
        request.getfixturevalue("torch_kernels")
    return name


Situation = Callable[[Case, list[dict[str, Any]]], list[News]]


def in_a_crowd(case: Case, requests: list[dict[str, Any]]) -> list[News]:
    trace = case.trace(max_num_batched_tokens=700, max_num_seqs=9)
    order = list(range(len(requests)))
    random.Random(2).shuffle(order)
    news = crowd(trace, [requests[i] for i in order], random.Random(1), aborts=0.0)
    return [news[order.index(i)] for i in range(len(requests))]


def in_chunks(case: Case, requests: list[dict[str, Any]]) -> list[News]:
    trace = case.trace(max_num_batched_tokens=264, max_num_seqs=8, prefix_caching=False)
    ids = [trace.submit(**request) for request in requests]
    trace.run()
    return [trace.news[sequence_id] for sequence_id in ids]


def preempted(case: Case, requests: list[dict[str, Any]]) -> list[News]:
    """Each twice in its prompt, and once of what is generated."""
    trace = case.trace(max_num_batched_tokens=264, max_num_seqs=8)
    news: list[News] = []
    for request in requests:
        sequence_id = trace.submit(**request)
        for steps in (1, 2, 4):
            for _ in range(steps):
                trace.step()
            sequence = trace.scheduler.get(sequence_id)
            if sequence is not None and sequence in trace.scheduler._holders.running:
                trace.scheduler._holders.preempt(sequence)
        trace.run()
        news.append(trace.news[sequence_id])
    assert trace.scheduler.preemptions > len(requests)
    return news


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_the_same_bits_in_every_situation(
    family: str, dtype: str, kernels: str, checkpoints: dict[str, Path], cache_dir: Path
) -> None:
    """Of those that look and change, and of those beside them that do not."""
    case = Case(family, str(checkpoints[family]), str(cache_dir), dtype, kernels)
    first = case.trace(prefix_caching=False)
    watching = looks(first, family)
    requests = [*case.requests.values(), *watching.values()]
    names = [*case.requests, *watching]
    lone = [*case.alone(), *alone(first, [*watching.values()])]
    assert all(news.finish and not news.error for news in lone)
    situations: list[Situation] = [in_a_crowd]
    if family in DECODERS:
        situations += [in_chunks, preempted]
    for situation in situations:
        news = situation(case, requests)
        differing = [name for name, a, b in zip(names, news, lone, strict=True) if not same(a, b)]
        assert not differing, situation.__name__


def test_keys_that_were_kept_are_freed(checkpoints: dict[str, Path], cache_dir: Path) -> None:
    """With a preemption, and when the sequence ends."""
    trace = Trace(checkpoints["gemma3"], cache_dir, max_num_batched_tokens=264, max_num_seqs=8)
    look = Look(attention=PatternSpec(LAYERS, HEADS, (599,), rollout=True))
    asked = trace.submit(PROMPT, look=look)
    trace.step()
    sequence = trace.scheduler.get(asked)
    assert sequence is not None
    [view] = sequence.views
    assert set(view._compare._keys._rows) == set(LAYERS)  # type: ignore[attr-defined]
    assert set(view._rolled._rows) == set(LAYERS)  # type: ignore[attr-defined]
    trace.scheduler._holders.preempt(sequence)
    assert not view._compare._keys._rows  # type: ignore[attr-defined]
    assert not view._rolled._rows  # type: ignore[attr-defined]
    trace.run()
    assert trace.news[asked].finish == "length"
    assert trace.scheduler.get(asked) is None
