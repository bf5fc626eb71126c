"""The tokens that may be drawn from one row, the likeliest first: no more of them than are needed.

A scan of the row has found its largest entries. Mostly they are enough; where they are not, one
pass over the row gives the weights of all tokens, and a bound that moves step by step gives the
next ones without sorting 10^5 entries. Either way the numbers that decide are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Weights = NDArray[np.float64]
Ids = NDArray[np.int64]

NOTHING = (np.zeros(0, np.float32), np.zeros(0, np.int64))
"""Values and ids where none are known."""

_LEADING = 64  # entries looked for where none are known
_STEPS, _GROWTH = 24, 1.25  # times that a bound moves, each time further, until all is taken
_MARGIN = 1e-5  # more than the share by which float32 sums over a row may be off


class Ranking:
    """Some tokens of one row: their logits, largest first; among equals the lower id."""

    def __init__(
        self,
        values: Values,
        ids: Ids,
        make_row: Callable[[], Values] | None = None,
        log_total: float | None = None,
    ) -> None:
        """Begin with the largest ``values`` float32 [K] and their ``ids``.

        ``make_row`` gives the row float32 [V] when it is needed; None: nothing is behind the
        values. With it, ``values`` may be empty. ``log_total``: the row's log-sum-exp, if known.
        """
        self._make_row = make_row
        self._known = values, ids
        self._log_total = log_total

    @cached_property
    def best(self) -> int:
        """The first token."""
        ids = self._known[1]
        return int(ids[0]) if len(ids) else int(self._row.argmax())

    @cached_property
    def largest(self) -> float:
        """Its logit."""
        values = self._known[0]
        return float(values[0] if len(values) else self._row[self.best])

    def first(self, count: int) -> Ranking:
        """The ``count`` largest."""
        values, ids = self._leading
        if count > len(values) and self._make_row is not None:
            values, ids = self._until(lambda bound: _count(self._keys, bound) >= count)
        return Ranking(values[:count], ids[:count])

    def nucleus(self, top_p: float, temperature: float) -> Ranking:
        """The fewest that together reach the probability ``top_p``."""
        values, ids = self._leading
        sums = self._weigh(values, temperature).cumsum()
        low, high = self._total_between(float(sums[-1]), temperature)
        count = _below(sums, top_p * low)
        if count == len(sums) or count != _below(sums, top_p * high):
            weights = self._weigh_row(temperature)
            wanted = top_p * float(weights.sum(dtype=np.float64))
            if not wanted <= sums[-1]:
                values, ids = self._until(
                    lambda bound: _mass(weights, self._keys, bound) >= wanted * (1 + _MARGIN)
                )
                sums = self._weigh(values, temperature).cumsum()
            count = _below(sums, wanted)
        return Ranking(values[: count + 1], ids[: count + 1])

    def above(self, share: float, temperature: float) -> Ranking:
        """Those with at least ``share`` of the first one's probability."""
        values, ids = self._leading
        if self._make_row is not None and self._weigh(values[-1:], temperature)[0] >= share:
            bound = -self.largest - temperature * float(np.log(share))
            values, ids = self._take(_order(self._keys, bound + max(1.0, abs(bound)) * _MARGIN))
        count = max(1, int((self._weigh(values, temperature) >= share).sum()))
        return Ranking(values[:count], ids[:count])

    def weigh(self, temperature: float) -> tuple[Weights | Values, Ids | None]:
        """Probabilities [K] of all tokens but for a common factor, and their ids.

        Without ids: the weights are those of the row, [V].
        """
        if self._make_row is not None:
            return self._weigh_row(temperature), None
        values, ids = self._known
        return self._weigh(values, temperature), ids

    @cached_property
    def _row(self) -> Values:
        assert self._make_row is not None
        return self._make_row()

    @cached_property
    def _keys(self) -> Values:
        """The row in ascending terms."""
        return -self._row

    @cached_property
    def _leading(self) -> tuple[Values, Ids]:
        """Some of the largest, at least one."""
        if len(self._known[0]):
            return self._known
        return self._until(lambda bound: _count(self._keys, bound) >= _LEADING)

    def _weigh(self, values: Values, temperature: float) -> Weights:
        """Counted from the largest, no logit overflows however cold it gets."""
        return np.exp((values.astype(np.float64) - self.largest) / temperature)

    def _weigh_row(self, temperature: float) -> Values:
        weights: Values = self._row - np.float32(self.largest)
        weights *= np.float32(1 / temperature)
        return np.exp(weights, out=weights)

    def _total_between(self, known: float, temperature: float) -> tuple[float, float]:
        """Bounds of the sum of all weights, where the leading ones sum to ``known``.

        Behind the leading logits none is larger than the last of them, so cooling shrinks the
        weights there at least as much as that one's.
        """
        if self._make_row is None:
            return known, known
        if self._log_total is None or temperature > 1.0:
            return known, np.inf
        values = self._leading[0]
        total = float(np.exp(self._log_total - self.largest))
        rest = total - float(self._weigh(values, 1.0).sum())
        error = total * _MARGIN
        least = max(0.0, rest - error) if temperature == 1.0 else 0.0
        last = float(values[-1]) - self.largest
        most = (max(0.0, rest) + error) * float(np.exp(last / temperature - last))
        return (known + least) * (1 - _MARGIN), (known + most) * (1 + _MARGIN)

    def _until(self, enough: Callable[[float], bool]) -> tuple[Values, Ids]:
        """The largest of the row in order, as many as the first bound that is ``enough`` takes."""
        values = self._known[0]
        bound = -float(values[-1]) if len(values) else -self.largest
        return self._take(_search(self._keys, bound, max(0.5, (bound + self.largest) / 2), enough))

    def _take(self, ids: Ids) -> tuple[Values, Ids]:
        return self._row[ids], ids


def fewest(keys: Values | Weights, weights: Values | Weights, wanted: float) -> Ids:
    """Indices of the fewest entries, by ascending key, whose weights together reach ``wanted``."""
    ids = _search(keys, 0.0, 0.25, lambda bound: _mass(weights, keys, bound) >= wanted)
    count = _below(weights[ids].cumsum(dtype=np.float64), wanted)
    return ids[: count + 1]


def _search(
    keys: Values | Weights, bound: float, step: float, enough: Callable[[float], bool]
) -> Ids:
    """Indices of ``keys`` up to the first bound that is ``enough``, by ascending key."""
    for _ in range(_STEPS):
        bound, step = bound + step, _GROWTH * step
        if enough(bound):
            return _order(keys, bound)
    return np.argsort(keys, kind="stable")


def _order(keys: Values | Weights, bound: float) -> Ids:
    """Indices of the keys up to ``bound``, ascending; the lower index first among equals."""
    found = np.flatnonzero(keys <= bound)
    return found[np.argsort(keys[found], kind="stable")]


def _count(keys: Values, bound: float) -> int:
    return int(np.count_nonzero(keys <= bound))


def _mass(weights: Values | Weights, keys: Values | Weights, bound: float) -> float:
    return float(weights[np.flatnonzero(keys <= bound)].sum(dtype=np.float64))


def _below(sums: Weights, wanted: float) -> int:
    """How many running sums stay below ``wanted``."""
    return int(sums.searchsorted(wanted))
