"""The sampler's filters, as transformers' processors have them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from headstream.model.outputs import SamplingParams
from sampled_rows import kept, penalise, random_row, request


def theirs(row: Tensor, params: SamplingParams, seen: list[int] | None = None) -> Tensor:
    """The same by transformers, its processors in the order of its ``generate``."""
    steps: list[Any] = []
    if params.repetition_penalty != 1.0:
        steps.append(hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    steps.append(hf.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        steps.append(hf.TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        steps.append(hf.TopPLogitsWarper(params.top_p))
    if params.min_p:
        steps.append(hf.MinPLogitsWarper(params.min_p))
    if params.typical_p < 1.0:
        steps.append(hf.TypicalLogitsWarper(params.typical_p))
    ids: Any = torch.tensor([seen or [0]])
    scores: Any = hf.LogitsProcessorList(steps)(ids, row[None].clone())
    expected: Tensor = scores[0].double().softmax(0)
    return expected


def assert_same_choice(row: Tensor, params: SamplingParams) -> None:
    ours, expected = kept(row, params), theirs(row, params)
    differing = (ours > 0) != (expected > 0)
    # Both add float32 probabilities to reach top_p, in opposite directions: a token that stands
    # exactly at the edge may fall on either side, and weighs next to nothing.
    assert differing.sum() <= 1 + len(row) // 10_000
    assert (ours[differing] + expected[differing]).sum() < 2e-4
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


SETTINGS = [
    SamplingParams(temperature=t, top_k=k, top_p=p, min_p=m)
    for t, k, p, m in itertools.product(
        (0.3, 1.0, 2.5), (0, 1, 7, 5000), (1.0, 0.95, 0.4, 1e-4), (0.0, 0.02, 0.7, 0.999)
    )
] + [
    SamplingParams(temperature=t, top_k=k, top_p=p, typical_p=typical)
    for t, k, p, typical in itertools.product(
        (0.3, 1.0, 2.5), (0, 7, 5000), (1.0, 0.8), (0.95, 0.5, 1e-3)
    )
]


@pytest.mark.parametrize("d_vocab", [2, 50, 1024, 1025, 3000])
def test_filters_and_probabilities(d_vocab: int) -> None:
    row = random_row(d_vocab, seed=d_vocab)
    for params in SETTINGS:
        assert_same_choice(row, params)


@pytest.mark.parametrize("spread", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, top_p=0.9),
        SamplingParams(temperature=1.0, top_p=0.9, min_p=0.01),
        SamplingParams(temperature=1.0, min_p=0.3),
        SamplingParams(temperature=1.7, top_k=20_000, top_p=0.9),
        SamplingParams(temperature=1.0, typical_p=0.9),
    ],
)
def test_rows_whose_first_candidates_are_not_enough(params: SamplingParams, spread: float) -> None:
    """A flat row over a large vocabulary: the first 1024 tokens reach no top_p."""
    d_vocab = 60_000
    row = random_row(d_vocab, spread=spread)
    first = row.softmax(0).topk(1024).values
    assert first.sum() < 0.9
    if spread == 0.0:  # all tie: which ones are kept is open, how many is not
        for probabilities in (kept(row, params), theirs(row, params)):
            count = int((probabilities > 0).sum())
            reached = params.top_p * params.typical_p * (min(params.top_k, d_vocab) or d_vocab)
            # transformers keeps every token that ties with the last of top_k or of typical_p
            open_end = params.top_k or (params.typical_p < 1.0 and count == d_vocab)
            assert open_end or count == pytest.approx(reached, rel=1e-3)
        return
    assert_same_choice(row, params)


def test_tokens_that_tie_at_top_k() -> None:
    """Here top_k is exact: transformers keeps everything that ties with the last one."""
    row = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0])
    ours = kept(row, SamplingParams(temperature=1.0, top_k=2))
    assert (ours > 0).sum() == 2
    assert (theirs(row, SamplingParams(temperature=1.0, top_k=2)) > 0).sum() == 4


def test_top_p_keeps_the_token_that_reaches_it() -> None:
    row = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for top_p, count in ((0.45, 1), (0.55, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)):
        assert (kept(row, SamplingParams(temperature=1.0, top_p=top_p)) > 0).sum() == count


@pytest.mark.parametrize("penalty", [0.5, 1.3, 4.0])
@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=0.8, top_k=9, top_p=0.8, min_p=0.05), SamplingParams(1.0)]
)
def test_repetition_penalty(penalty: float, params: SamplingParams) -> None:
    params = SamplingParams(
        params.temperature, params.top_k, params.top_p, params.min_p, repetition_penalty=penalty
    )
    for seed in range(10):
        row = random_row(200, seed=seed)
        prompt, output = [3, 3, 8, int(row.argmax())], [8, 11, 199]
        penalised = penalise(row, request(params, prompt=prompt, output=output))
        expected = theirs(row, params, [*prompt, *output])
        torch.testing.assert_close(kept(penalised, params), expected, atol=1e-6, rtol=1e-5)
