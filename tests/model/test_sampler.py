"""The sampler against transformers' processors, by hand, and by many draws."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from headstream.model import sampler
from headstream.model.batch import RowRequest
from headstream.model.outputs import LogitsSpec, SamplingParams
from headstream.model.ranking import Ranking
from leading_entries import leading


def request(
    params: SamplingParams, *, draw: int = 0, prompt: list[int] | None = None, output=()
) -> RowRequest:
    return RowRequest(params, LogitsSpec(), False, draw, prompt or [0], output)


def random_row(d_vocab: int, *, spread: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(d_vocab, generator=torch.Generator().manual_seed(seed)) * spread


def choose(row: Tensor, wanted: RowRequest) -> int:
    return sampler.choose(leading(row), row.numpy(), wanted)


def penalise(row: Tensor, wanted: RowRequest) -> Tensor:
    return torch.from_numpy(sampler.penalise(row.numpy(), wanted))


def kept(row: Tensor, params: SamplingParams) -> Tensor:
    """Probabilities [V] of the tokens that may be drawn."""
    values, ids, log_total = leading(row)
    ranking = Ranking(values, ids, row.numpy, log_total)
    weights, token_ids = sampler.candidates(ranking, params)
    if token_ids is None:
        token_ids = np.arange(len(row))
    assert len(set(token_ids.tolist())) == len(token_ids)
    found = torch.zeros(len(row), dtype=torch.float64)
    found[torch.from_numpy(token_ids)] = torch.from_numpy(weights / weights.sum()).double()
    return found


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


# --- Filters, as transformers has them ---


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


# --- Penalties and bias by hand ---


def test_presence_and_frequency_count_the_output_alone() -> None:
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    row = torch.zeros(6)
    penalised = penalise(row, request(params, prompt=[0, 1, 1], output=[1, 4, 4, 4]))
    assert penalised.tolist() == [0, -0.75, 0, 0, -1.25, 0]
    assert row.tolist() == [0] * 6  # the raw row is what clients see
    assert penalise(row, request(params, prompt=[1, 1])).tolist() == [0] * 6


def test_negative_penalties_encourage() -> None:
    params = SamplingParams(frequency_penalty=-1.0)
    assert choose(torch.tensor([1.0, 0.5]), request(params, output=[1])) == 1


def test_bias_is_added_last() -> None:
    params = SamplingParams(repetition_penalty=2.0, logit_bias={0: 1.5, 2: -7.0})
    row = torch.tensor([4.0, -4.0, 1.0])
    assert penalise(row, request(params, prompt=[0, 1])).tolist() == [3.5, -8.0, -6.0]


def test_repetition_of_nothing() -> None:
    params = SamplingParams(repetition_penalty=2.0)
    bare = RowRequest(params, LogitsSpec(), False, 0, [], [])
    assert penalise(torch.tensor([1.0, 2.0]), bare).tolist() == [1.0, 2.0]


# --- Greedy ---


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    row = torch.full((5000,), -1.0)
    row[[4000, 17, 900]] = 2.0
    assert choose(row, request(SamplingParams())) == 17
    biased = SamplingParams(logit_bias={3: 3.0})
    assert choose(row, request(biased)) == 3
    banned = SamplingParams(logit_bias={17: -100.0})
    assert choose(row, request(banned)) == 900


# --- Draws ---


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.6, top_k=5),
        SamplingParams(temperature=1.5, top_p=0.8),
        SamplingParams(temperature=1.0, min_p=0.1),
        SamplingParams(temperature=1.0, top_k=9, top_p=0.9, min_p=0.02, logit_bias={4: 2.0}),
    ],
)
@pytest.mark.parametrize("along", ["draw", "seed"])
def test_draws_are_distributed_as_the_row_says(params: SamplingParams, along: str) -> None:
    """Chi-square over the tokens of one sequence, and over sequences of neighbouring seeds."""
    row = random_row(12, spread=1.0, seed=3)
    draws = 6000
    counts = torch.zeros(12, dtype=torch.float64)
    settings: dict[str, Any] = {name: getattr(params, name) for name in SamplingParams.__slots__}
    for i in range(draws):
        settings["seed"] = 77 if along == "draw" else i
        seeded = SamplingParams(**settings)
        counts[choose(row, request(seeded, draw=i if along == "draw" else 0))] += 1
    biased = row.clone()
    for token_id, bias in params.logit_bias.items():
        biased[token_id] += bias
    expected = kept(biased, params) * draws
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = float(((counts - expected)[possible] ** 2 / expected[possible]).sum())
    freedom = int(possible.sum()) - 1
    # Mean `freedom`, variance twice that; four standard deviations and some of the long tail.
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom) + 4


def test_draws_are_reproducible() -> None:
    row = random_row(1000, spread=1.0)

    def draws(seed: int) -> list[int]:
        params = SamplingParams(temperature=1.0, seed=seed)
        return [choose(row, request(params, draw=i)) for i in range(50)]

    assert draws(5) == draws(5)
    assert draws(5) != draws(6)
    assert len(set(draws(5))) > 20


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**64 - 1])
def test_every_seed_is_a_seed(seed: int) -> None:
    numbers = [sampler.uniform(seed, draw) for draw in (0, 1, 2, 2**31, 2**40)]
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert len(set(numbers)) == 5


def test_neighbouring_draws_and_seeds_are_uncorrelated() -> None:
    along_draws = torch.tensor([sampler.uniform(9, draw) for draw in range(4000)])
    along_seeds = torch.tensor([sampler.uniform(seed, 9) for seed in range(4000)])
    for numbers in (along_draws, along_seeds):
        correlation = torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(4000)
    across = torch.corrcoef(torch.stack([along_draws, along_seeds]))[0, 1]
    assert abs(across) < 4 / math.sqrt(4000)


# --- Extremes ---

FILTERS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=1.0, top_k=3),
    SamplingParams(temperature=1.0, top_p=0.9),
    SamplingParams(temperature=1.0, min_p=0.1),
    SamplingParams(temperature=1.0, top_k=3, top_p=0.9, min_p=0.1),
]


def _with(params: SamplingParams, **changes: Any) -> SamplingParams:
    settings: dict[str, Any] = {name: getattr(params, name) for name in SamplingParams.__slots__}
    return SamplingParams(**{**settings, **changes})


@pytest.mark.parametrize("params", FILTERS)
@pytest.mark.parametrize("d_vocab", [1, 2, 2000])
def test_all_logits_equal(d_vocab: int, params: SamplingParams) -> None:
    row = torch.full((d_vocab,), -5.0)
    for draw in range(20):
        assert 0 <= choose(row, request(params, draw=draw)) < d_vocab


@pytest.mark.parametrize("params", FILTERS)
@pytest.mark.parametrize("bias", [-1e3, -1e30, -3.4e38])
def test_a_banned_token_is_never_drawn(bias: float, params: SamplingParams) -> None:
    row = random_row(40)
    banned = set(range(40)) - {7, 23}
    params = _with(params, logit_bias=dict.fromkeys(banned, bias))
    drawn = {choose(row, request(params, draw=draw)) for draw in range(200)}
    assert drawn <= {7, 23}


@pytest.mark.parametrize("params", FILTERS)
def test_everything_banned_still_answers(params: SamplingParams) -> None:
    row = random_row(40)
    params = _with(params, logit_bias=dict.fromkeys(range(40), -3.4e38), presence_penalty=3.4e38)
    assert 0 <= choose(row, request(params, output=[1, 2])) < 40


@pytest.mark.parametrize("params", FILTERS)
def test_infinite_encouragement(params: SamplingParams) -> None:
    row = random_row(40)
    params = _with(params, logit_bias={9: 3.4e38}, presence_penalty=-3.4e38)
    for draw in range(20):
        assert choose(row, request(params, draw=draw, output=[9])) == 9


@pytest.mark.parametrize("params", FILTERS)
@pytest.mark.parametrize("temperature", [1e-3, 1e-12, 1e-38, 1.4e-45, 1e-300, 5e-324])
def test_the_coldest_temperatures_are_greedy(temperature: float, params: SamplingParams) -> None:
    params = _with(params, temperature=temperature)
    for seed in range(5):
        row = random_row(300, spread=30.0, seed=seed)
        for draw in range(10):
            token_id = choose(row, request(params, draw=draw))
            assert token_id == int(row.argmax())


@pytest.mark.parametrize("params", FILTERS[:1])
def test_the_hottest_temperature_is_uniform(params: SamplingParams) -> None:
    params = _with(params, temperature=100.0)
    row = random_row(10, spread=1.0)
    drawn = {choose(row, request(params, draw=draw)) for draw in range(200)}
    assert drawn == set(range(10))


@pytest.mark.parametrize("penalty", [1e-45, 1e-30, 1e30, 3e38])
@pytest.mark.parametrize("params", FILTERS)
def test_extreme_repetition_penalties(params: SamplingParams, penalty: float) -> None:
    params = _with(params, repetition_penalty=penalty)
    row = torch.tensor([2.0, 1.0, -1.0, 0.0])
    for draw in range(10):
        token_id = choose(row, request(params, prompt=[1, 2], draw=draw))
        assert token_id == 1 if penalty < 1 else token_id != 2


@pytest.mark.parametrize("params", FILTERS)
def test_minus_infinity_is_never_drawn(params: SamplingParams) -> None:
    row = torch.full((30,), -math.inf)
    row[[4, 20]] = torch.tensor([1.0, 2.0])
    drawn = {choose(row, request(params, draw=draw)) for draw in range(100)}
    assert drawn == {4, 20}


@pytest.mark.parametrize("params", FILTERS)
def test_rows_that_are_no_numbers_give_some_token(params: SamplingParams) -> None:
    """Broken weights end in nonsense, not in a crash of everybody's engine."""
    for row in (torch.full((9,), math.nan), torch.tensor([0.0, math.nan, 1.0, math.inf])):
        assert 0 <= choose(row, request(params)) < len(row)


def test_a_number_next_to_one_draws_a_possible_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of weights rounds: the last bounds may be equal, and the point fall on them."""
    monkeypatch.setattr(sampler, "uniform", lambda *_: 1 - 2**-53)
    row = random_row(5000)
    row[-100:] = -1e30
    assert choose(row, request(SamplingParams(temperature=1.0))) < 4900


def test_a_number_of_zero_draws_a_possible_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "uniform", lambda *_: 0.0)
    row = random_row(50)
    row[:10] = -1e30
    assert choose(row, request(SamplingParams(temperature=1.0))) == 10
