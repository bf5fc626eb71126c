"""How likely the given next tokens are: the arithmetic of scoring, over rows of logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_ROWS = 4
"""Rows worked on at once: few enough that what is computed of them stays in the cache."""


class RowScores(NamedTuple):
    """What R rows say of one token each."""

    logprobs: Tensor  # float32 [R] natural logarithm of the token's probability
    ranks: Tensor  # int64 [R] tokens with a larger logit, or an equal one and a lower id
    entropies: Tensor  # float32 [R] of the row's distribution, in nats


def score_rows(logits: Tensor, targets: Tensor, log_totals: Tensor) -> RowScores:
    """Score one token against each row.

    A row's scores are its own bits, whichever rows share the call and however many threads compute
    them: torch's softmax and its sums along a row give each row to one thread, single subtractions
    and products are exact to the last bit, and counts are whole numbers.

    Args:
        logits: float32 [R, V], finite.
        targets: int64 [R], the token of each row.
        log_totals: float32 [R], log(sum(exp(row))).
    """
    chosen = logits.gather(1, targets[:, None])  # [R, 1]
    logprobs = (chosen[:, 0].double() - log_totals.double()).float()
    ranks: list[Tensor] = []
    entropies: list[Tensor] = []
    work = logits.new_empty(2, min(_ROWS, len(logits)), logits.shape[1])
    for start in range(0, len(logits), _ROWS):
        part = slice(start, start + _ROWS)
        rows = logits[part]
        scratch = work[:, : len(rows)]  # [2, rows, V]
        entropies.append(_entropies(rows, log_totals[part], scratch))
        ranks.append(_ranks(rows, targets[part].tolist(), chosen[part], scratch[0]))
    return RowScores(logprobs, torch.cat(ranks), torch.cat(entropies))


def _entropies(rows: Tensor, log_totals: Tensor, scratch: Tensor) -> Tensor:
    """-sum(p log p), float32 [rows]; ``scratch`` [2, rows, V] is overwritten.

    Divided by sum(p), which is 1 but for the rounding of each p.
    """
    probabilities, terms = scratch
    torch.softmax(rows, dim=1, out=probabilities)
    torch.sub(rows, log_totals[:, None], out=terms).mul_(probabilities)
    # Both sums in one call: a lone sum would be split over the threads.
    masses, sums = scratch.sum(dim=2).double()
    entropies: Tensor = -sums / masses
    return entropies.clamp_(min=0.0).float()


def _ranks(rows: Tensor, targets: list[int], chosen: Tensor, scratch: Tensor) -> Tensor:
    """Tokens before the target, int64 [rows]; ``scratch`` [rows, V] is overwritten."""
    for row, target, logit, ahead in zip(rows, targets, chosen, scratch, strict=True):
        torch.ge(row[:target], logit, out=ahead[:target])
        torch.gt(row[target:], logit, out=ahead[target:])
    return scratch.sum(dim=1).long()  # below 2^24 a float counts exactly
