"""The next token of one row: penalties and bias, what may be drawn at all, the filters, one draw.

The order is that of the ``transformers`` library, so that the same settings mean the same:
temperature, top-k, top-p, min-p, typical-p. Among equal logits the lower token id comes first.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstream.model.batch import RowRequest
from headstream.model.kernels.unembed import LogitRows
from headstream.model.outputs import SamplingParams
from headstream.model.ranking import NOTHING, Ids, Ranking, Values, Weights, fewest

NO_TOKEN = -1
"""Nothing may be drawn."""

_COLDEST = 1e-6  # temperature; below it float32 logits differ by far more than it or not at all
_STRIDE = 512  # weights that are summed on the way to a drawn one
_FEW = 4096  # tokens that are sorted rather than looked for in the row
_BAN = 3e38  # taken off the logits of tokens that may not be drawn


class Leading(NamedTuple):
    """What was found in a row as it was made."""

    values: Values  # float32 [K] the largest logits
    ids: Ids  # int64 [K] their tokens; the lower id first among equals
    log_total: float  # log-sum-exp of the row


def split_rows(found: LogitRows) -> list[Leading]:
    """What was found in each row; on the CPU."""
    columns = found.values.numpy(), found.ids.numpy(), found.log_totals.tolist()
    return [Leading(*row) for row in zip(*columns, strict=True)]


def choose(leading: Leading, row: Values | None, request: RowRequest) -> int:
    """The next token, or :data:`NO_TOKEN`.

    Args:
        leading: What was found in the raw row.
        row: The raw row float32 [V]; may be None unless ``request.needs_full_row``.
        request: What is wanted.
    """
    params = request.sampling
    if params.greedy and params.plain and not request.restricted:
        return int(leading.ids[0])
    with np.errstate(all="ignore"):  # rows may hold infinities, and what is no number
        ranking = _rank(leading, row, request)
        if ranking is None:
            return NO_TOKEN
        if params.greedy or not np.isfinite(ranking.largest):
            return ranking.best
        weights, ids = candidates(ranking, params)
        index = _draw(weights, uniform(params.seed, request.draw))
    return index if ids is None else int(ids[index])


def _rank(leading: Leading, row: Values | None, request: RowRequest) -> Ranking | None:
    """The tokens that may be drawn, by their penalised logits; None: there are none."""
    values, ids, log_total = leading
    if row is None:  # of what the scan has found, more may be drawn than is wanted
        keep = ~np.isin(ids, request.banned_ids)
        return Ranking(values[keep], ids[keep]) if keep.any() else None
    if not request.sampling.plain:
        row = penalise(row, request)
        values, ids = NOTHING
    if not request.restricted:
        return Ranking(values, ids, lambda: row, log_total if len(ids) else None)
    permitted = _permitted(request, len(row))
    keep = permitted[ids]
    if request.sampling.greedy and keep.any():
        return Ranking(values[keep], ids[keep])
    count = np.count_nonzero(permitted)
    if count == 0:
        return None
    if count <= _FEW:
        ids = np.flatnonzero(permitted)
        order = np.argsort(-row[ids], kind="stable")
        return Ranking(row[ids[order]], ids[order])
    return Ranking(values[keep], ids[keep], lambda: _without(row, permitted))


def _without(row: Values, permitted: NDArray[np.bool_]) -> Values:
    """A copy of ``row`` [V] in which what is not ``permitted`` [V] weighs nothing."""
    lift: Values = permitted.astype(np.float32)
    lift -= 1
    lift *= _BAN
    lift += row
    return lift


def _permitted(request: RowRequest, d_vocab: int) -> NDArray[np.bool_]:
    """Whether each token may be drawn: bool [V]."""
    permitted = np.ones(d_vocab, np.bool_)
    if request.mask is not None:
        permitted = np.unpackbits(request.mask, count=d_vocab, bitorder="little").view(np.bool_)
    if request.sampling.allowed_ids:
        allowed = np.array(request.sampling.allowed_ids)
        chosen = allowed[permitted[allowed]]
        permitted = np.zeros(d_vocab, np.bool_)
        permitted[chosen] = True
    permitted[list(request.banned_ids)] = False
    return permitted


def penalise(row: Values, request: RowRequest) -> Values:
    """A copy of ``row`` [V] with penalties for tokens seen, and bias.

    Repetition: Keskar et al. 2019 (CTRL), over prompt and output; presence and frequency over the
    output alone.
    """
    params = request.sampling
    row = row.copy()
    if params.repetition_penalty != 1.0:
        seen = np.array(sorted({*request.prompt_ids, *request.output_ids}), np.int64)
        penalty = np.float32(params.repetition_penalty)
        row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
    if request.output_ids and (params.presence_penalty or params.frequency_penalty):
        counts = Counter(request.output_ids)
        times = np.array(list(counts.values()), np.float32)
        row[list(counts)] -= params.presence_penalty + params.frequency_penalty * times
    if params.logit_bias:
        row[list(params.logit_bias)] += np.array(list(params.logit_bias.values()), np.float32)
    # Large penalties and biases may add up to infinities, whose differences are no numbers.
    limits = np.finfo(np.float32)
    return np.clip(row, limits.min, limits.max, out=row)


def candidates(ranking: Ranking, params: SamplingParams) -> tuple[Weights | Values, Ids | None]:
    """The tokens that pass the filters: probabilities [K] but for a common factor, and ids.

    Without ids: the weights are those of the whole vocabulary.
    """
    temperature = max(params.temperature, _COLDEST)
    if params.top_k:
        ranking = ranking.first(params.top_k)
    if params.top_p < 1.0:
        ranking = ranking.nucleus(params.top_p, temperature)
    if params.min_p > 0.0:
        ranking = ranking.above(params.min_p, temperature)
    weights, ids = ranking.weigh(temperature)
    if params.typical_p < 1.0:
        typical = _typical(weights, params.typical_p)
        return weights[typical], typical if ids is None else ids[typical]
    return weights, ids


def _typical(weights: Weights | Values, mass: float) -> Ids:
    """Indices of the tokens whose surprise is nearest to the entropy (Meister et al. 2022)."""
    total = float(weights.sum(dtype=np.float64))
    surprise = np.log(total) - np.log(weights)  # infinite where the weight is zero
    likely = np.flatnonzero(weights)
    entropy = float((weights[likely] * surprise[likely]).sum(dtype=np.float64)) / total
    return fewest(np.abs(surprise - entropy), weights, mass * total)


def _draw(weights: Weights | Values, share: float) -> int:
    """The index where the running sum of ``weights`` passes ``share`` of the whole."""
    starts = np.arange(0, len(weights), _STRIDE)
    sums = np.add.reduceat(weights, starts, dtype=np.float64).cumsum()
    point = share * float(sums[-1])
    stride = min(int(sums.searchsorted(point, side="right")), len(starts) - 1)
    start = int(starts[stride])
    part = weights[start : start + _STRIDE].cumsum(dtype=np.float64)
    if stride:
        point -= float(sums[stride - 1])
    index = start + min(int(part.searchsorted(point, side="right")), len(part) - 1)
    if weights[index] > 0:
        return index
    # Sums round: the point may fall behind the last token that has any weight.
    possible = np.flatnonzero(weights > 0)
    return int(possible[-1]) if len(possible) else 0


def uniform(seed: int, draw: int) -> float:
    """A number in [0, 1) that depends on the request's seed and the draw's number alone."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=draw))
    return float(generator.random())
