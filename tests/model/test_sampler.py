"""The sampler by hand, and by many draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from headstream.model import sampler
from headstream.model.batch import RowRequest
from headstream.model.outputs import LogitsSpec, SamplingParams
from sampled_rows import choose, kept, penalise, random_row, request

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
