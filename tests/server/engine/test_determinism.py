"""The contract: a request gets the same bits in every situation, in every family and dtype."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import contract_requests
from contract_requests import PROMPT, REQUESTS, Case, digest, text
from engine_crowd import check_same, crowd
from engine_trace import DTYPES, News, Trace, alone, everything, same
from headstream.model.families import ARCHITECTURES
from headstream.model.outputs import Outputs, PoolSpec, SamplingParams
from headstream.server.engine import build
from headstream.server.engine import sequence as sequence_module
from model_reference import PLAIN_KERNELS
from tiny_models import D_VOCAB, DECODERS, ENCODERS, save_tiny

POOL = Outputs(pool=PoolSpec(-1, "mean", ((0,),)))
Situation = Callable[[Case], list[News]]


def in_a_crowd(case: Case) -> list[News]:
    rng = random.Random(1)
    requests: list[dict[str, Any]] = [
        {"token_ids": text(i, 1 + 37 * i)}
        | ({"outputs": POOL} if case.family in ENCODERS else {"max_new_tokens": 30})
        for i in range(12)
    ]
    for request in case.requests.values():
        requests.insert(rng.randrange(len(requests)), request)
    trace = case.trace(max_num_batched_tokens=700, max_num_seqs=9)
    news = crowd(trace, requests, rng, aborts=0.0)
    together = max(report.stats.num_seqs for report in trace.reports)
    assert together > (1 if case.family in ENCODERS else 5)
    return [news[requests.index(request)] for request in case.requests.values()]


def in_chunks(case: Case) -> list[News]:
    trace = case.trace(max_num_batched_tokens=260, max_num_seqs=4, prefix_caching=False)
    ids = [trace.submit(**request) for request in REQUESTS.values()]
    trace.run()
    assert max(report.stats.num_tokens for report in trace.reports) <= 260
    return [trace.news[sequence_id] for sequence_id in ids]


def from_the_cache(case: Case) -> list[News]:
    """Another text that begins alike was here before."""
    trace = case.trace()
    alone(trace, [{"token_ids": PROMPT[:512] + text(1, 99), "max_new_tokens": 3}])
    news = alone(trace, [*REQUESTS.values()])
    assert trace.scheduler.hit_tokens == 3 * 512  # "read" wants all of its rows
    return news


def preempted(case: Case) -> list[News]:
    """Twice in the middle of the prompt, and once of what is generated."""
    trace = case.trace(max_num_batched_tokens=260, max_num_seqs=4, prefix_caching=False)
    ids: list[int] = []
    for request in REQUESTS.values():
        ids.append(trace.submit(**request))
        for steps in (1, 2, 20):
            for _ in range(steps):
                trace.step()
            if (sequence := trace.scheduler.get(ids[-1])) is not None:
                trace.scheduler._holders.preempt(sequence)
        trace.run()
    assert trace.scheduler.preemptions == 3 + 2 + 2 + 2
    return [trace.news[sequence_id] for sequence_id in ids]


def taken_up_again(case: Case) -> list[News]:
    """An engine is gone after 17 tokens, another goes on; what is left out is what was told."""
    gone = case.trace()
    sequence_id = gone.submit(**REQUESTS["generate"])
    while len(gone.news[sequence_id].token_ids) < 17:
        gone.step()
    told = gone.news[sequence_id]
    trace = case.trace(max_num_batched_tokens=260, max_num_seqs=4)
    trace.submit(text(1, 99), 20)
    # The row of the last token is computed one step after it: that token is generated again.
    output_ids = tuple(told.token_ids[:16])
    news = alone(trace, [REQUESTS["generate"] | {"output_ids": output_ids}])[0]
    news.logits = told.logits[:16] + news.logits
    assert not told.rows.keys() & news.rows.keys()
    news.rows |= told.rows
    others = [request for name, request in REQUESTS.items() if name != "generate"]
    return [news, *alone(trace, others)]


SITUATIONS: list[Situation] = [
    in_a_crowd,
    in_chunks,
    from_the_cache,
    preempted,
    taken_up_again,
]


def differing(case: Case, news: list[News], lone: list[News]) -> list[str]:
    """The requests that got other bits."""
    return [name for name, a, b in zip(case.requests, news, lone, strict=True) if not same(a, b)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directory of a small model of each family."""
    families = (*DECODERS, *ENCODERS)
    return {family: save_tiny(family, tmp_path_factory.mktemp(family)) for family in families}


@pytest.fixture(params=["native", "torch"])
def kernels(request: pytest.FixtureRequest) -> str:
    """What engines compute with; native kernels where they can be built."""
    name: str = request.param
    if name == "torch":
        request.getfixturevalue("torch_kernels")
    return name


@pytest.fixture(scope="module")
def restarted(checkpoints: dict[str, Path], cache_dir: Path) -> dict[Case, list[str]]:
    """Digests of what the requests get alone in a process of their own."""
    cases = [
        Case(family, str(directory), str(cache_dir), dtype, kernels)
        for family, directory in checkpoints.items()
        for dtype in ("float32", "bfloat16")
        for kernels in ("native", "torch")
    ]
    command = [sys.executable, contract_requests.__file__, *map(json.dumps, cases)]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(zip(cases, map(json.loads, ended.stdout.splitlines()), strict=True))


def test_every_family_is_here() -> None:
    assert DECODERS.keys() | ENCODERS.keys() == set(ARCHITECTURES.values())


@pytest.fixture(params=DTYPES)
def make_case(
    request: pytest.FixtureRequest, checkpoints: dict[str, Path], cache_dir: Path
) -> Callable[[str, str], Case]:
    """From a family and kernels."""
    dtype: str = request.param
    return lambda family, kernels: Case(
        family, str(checkpoints[family]), str(cache_dir), dtype, kernels
    )


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_the_same_bits_in_every_situation(
    family: str,
    kernels: str,
    make_case: Callable[[str, str], Case],
    restarted: dict[Case, list[str]],
) -> None:
    """Alone, in a crowd, in chunks, from the prefix cache, preempted, and in another process.

    An encoder reads a text in one step and keeps nothing of it, so the middle ones are not its own.
    """
    case = make_case(family, kernels)
    assert case.trace().ready.batch_invariant
    lone = case.alone()
    assert family in ENCODERS or len(set(lone[0].token_ids)) > 20, "it is a text"
    for situation in [in_a_crowd] if family in ENCODERS else SITUATIONS:
        assert not differing(case, situation(case), lone), situation.__name__
    assert [digest(news) for news in lone] == restarted[case]


@pytest.mark.parametrize("family", DECODERS)
def test_operators_without_such_care_say_so_and_differ(
    family: str, make_case: Callable[[str, str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: what torch offers computes a row by the number of rows beside it."""
    monkeypatch.setattr(build, "choose_kernels", lambda *_, **__: PLAIN_KERNELS)
    case = make_case(family, "plain")
    assert not case.trace().ready.batch_invariant
    lone = case.alone()
    assert not differing(case, case.alone(), lone)
    assert differing(case, in_a_crowd(case), lone) == ["generate"]
    if case.dtype == "float32":
        assert differing(case, in_chunks(case), lone) == ["generate"]
        assert differing(case, preempted(case), lone) == ["generate"]


def _request(rng: random.Random) -> dict[str, Any]:
    length = rng.choice([1, 2, 5, 17, 63, 255, 256, 257, 300, 511, 700])
    prompt = [rng.randrange(D_VOCAB) for _ in range(length)]
    if rng.random() < 0.3:
        return {"token_ids": prompt, "outputs": everything("embed", length)}
    sampling = SamplingParams()
    if rng.random() < 0.5:
        sampling = SamplingParams(
            temperature=1.3, top_k=40, top_p=0.9, repetition_penalty=1.1, seed=rng.randrange(99)
        )
    return {
        "token_ids": prompt,
        "max_new_tokens": rng.choice([1, 3, 20, 40]),
        "sampling": sampling,
        "outputs": everything("generate", length),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_random_crowds(tiny_gemma: Path, cache_dir: Path, dtype: str, threads: int) -> None:
    """Random lengths, arrivals and aborts under a small budget."""
    rng = random.Random(threads)
    requests = [_request(rng) for _ in range(24)]
    settings: dict[str, Any] = {"dtype": dtype, "num_threads": threads}
    lone_trace = Trace(tiny_gemma, cache_dir, max_num_batched_tokens=2048, **settings)
    lone = alone(lone_trace, requests)
    trace = Trace(tiny_gemma, cache_dir, max_num_batched_tokens=300, max_num_seqs=9, **settings)
    check_same(crowd(trace, requests, rng, aborts=0.2), lone, at_least=13)


@pytest.mark.usefixtures("torch_kernels")
def test_prompts_cut_off_the_grid_differ(tiny_gemma: Path, cache_dir: Path) -> None:
    """Negative control: with torch's operators the cut of a prompt matters, so there is a grid."""
    prompt = [i % D_VOCAB for i in range(200)]
    outputs = Outputs(rows=everything("embed", 200).rows)
    whole = Trace(tiny_gemma, cache_dir)
    first = whole.submit(prompt, outputs=outputs)
    whole.run()
    cut = Trace(tiny_gemma, cache_dir)
    second = cut.submit(prompt, outputs=outputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence_module, "PREFILL_GRID", 7)
        patch.setattr(cut.scheduler, "_budget", 63)
        cut.run()
    assert whole.news[first].rows.keys() == cut.news[second].rows.keys()
    assert whole.news[first].rows != cut.news[second].rows
