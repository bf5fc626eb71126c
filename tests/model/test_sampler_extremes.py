"""The sampler at the ends of what it may be asked for, and with rows that are no use."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from headstream.model import sampler
from headstream.model.outputs import SamplingParams
from sampled_rows import choose, random_row, request

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
