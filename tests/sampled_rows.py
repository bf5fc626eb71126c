"""Rows of logits, and what the sampler makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headstream.model import sampler
from headstream.model.batch import RowRequest
from headstream.model.outputs import LogitsSpec, SamplingParams
from headstream.model.ranking import Ranking
from leading_entries import leading


def request(
    params: SamplingParams,
    *,
    draw: int = 0,
    prompt: list[int] | None = None,
    output: Sequence[int] = (),
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
