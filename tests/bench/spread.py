"""Many measurements of one thing as a few numbers, ready for JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import numpy as np


def spread(values: Iterable[float]) -> dict[str, float]:
    """The median, the lowest and the highest."""
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "low": ordered[0], "high": ordered[-1]}


def tail(values: Iterable[float]) -> dict[str, float]:
    """The median and what one in a hundred exceeds."""
    p50, p99 = np.percentile(list(values), [50, 99])
    return {"p50": float(p50), "p99": float(p99)}
