"""The next token of one row: penalties, then temperature, top-k, top-p, min-p, then one draw.

The order is that of the ``transformers`` library, so that the same settings mean the same.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from headstream.model.batch import RowRequest
from headstream.model.outputs import SamplingParams

_NUCLEUS_GUESS = 1024  # candidates sorted at first; more only where they do not reach top_p
_COLDEST = 1e-6  # temperature; below it float32 logits differ by far more than it or not at all


def choose(logits: Tensor, request: RowRequest) -> int:
    """The next token from raw ``logits`` float32 [V]."""
    params = request.sampling
    if not params.plain:
        logits = penalise(logits, request)
    if params.greedy:
        return int(logits.argmax())
    # Counted from the largest, no logit overflows however cold it gets.
    cooled = (logits - logits.max()) / max(params.temperature, _COLDEST)
    values, token_ids = candidates(cooled, params)
    weights = torch.softmax(values.double(), dim=0)
    bounds = weights.cumsum(0)
    point = uniform(params.seed, request.draw) * float(bounds[-1])
    index = int(torch.searchsorted(bounds, point, right=True))
    return int(token_ids[min(index, len(token_ids) - 1)])


def penalise(logits: Tensor, request: RowRequest) -> Tensor:
    """A copy of ``logits`` [V] with penalties for tokens seen, and bias.

    Repetition: Keskar et al. 2019 (CTRL), over prompt and output; presence and frequency over the
    output alone.
    """
    params = request.sampling
    logits = logits.clone()
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*request.prompt_ids, *request.output_ids}), dtype=torch.int64)
        values = logits[seen]
        penalty = params.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if request.output_ids and (params.presence_penalty or params.frequency_penalty):
        counts = Counter(request.output_ids)
        ids = torch.tensor(list(counts))
        times = torch.tensor(list(counts.values()), dtype=torch.float32)
        logits[ids] -= params.presence_penalty + params.frequency_penalty * times
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias))
        logits[ids] += torch.tensor(list(params.logit_bias.values()), dtype=torch.float32)
    # Large penalties and biases may add up to infinities, whose differences are no numbers.
    limits = torch.finfo(logits.dtype)
    return logits.clamp_(limits.min, limits.max)


def candidates(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The tokens that may be drawn: logits [K] and ids [K], largest first.

    Without a filter: the whole row, in vocabulary order.
    """
    if params.top_k == 0 and params.top_p == 1.0 and params.min_p == 0.0:
        return logits, torch.arange(len(logits))
    if params.top_k:
        values, token_ids = logits.topk(min(params.top_k, len(logits)))
        log_total = values.logsumexp(0)
    else:
        log_total = logits.logsumexp(0)
        values, token_ids = logits.topk(min(_NUCLEUS_GUESS, len(logits)))
        if not _settled((values - log_total).exp(), params):
            values, token_ids = logits.sort(descending=True)
    probabilities = (values - log_total).exp()
    keep = len(values)
    if params.top_p < 1.0:
        # The smallest set that reaches top_p: everything before the sum passes it, and one more.
        keep = int((probabilities.cumsum(0) < params.top_p).sum()) + 1
    if params.min_p > 0.0:
        keep = min(keep, int((probabilities >= params.min_p * probabilities[0]).sum()))
    keep = max(keep, 1)  # of a row with NaN nothing compares
    return values[:keep], token_ids[:keep]


def _settled(probabilities: Tensor, params: SamplingParams) -> bool:
    """Whether the leading candidates [K] already hold everything that can be kept."""
    reaches = params.top_p < 1.0 and float(probabilities.sum()) >= params.top_p
    floor = params.min_p > 0.0 and float(probabilities[-1] / probabilities[0]) < params.min_p
    return reaches or floor


def uniform(seed: int, draw: int) -> float:
    """A number in [0, 1) that depends on the request's seed and the draw's number alone."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=draw))
    return float(generator.random())
