"""How much faster ours is than each other engine, and how near to the floor."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.contenders.registry import OURS


@dataclass(frozen=True, slots=True)
class Ratio:
    """One of ours on one workload; above 1 it is faster than the other."""

    workload: Mapping[str, Any]
    ours: str
    of_floor: float
    against: Mapping[str, float]  # by engine that is not ours


def ratios(run: Mapping[str, Any]) -> Iterator[Ratio]:
    """Of the runs with one dtype.

    The rounds are paired, since contenders take turns within each: what the machine did to one
    round it did to both. The ratio is the median over the rounds.
    """
    for workload in run["workloads"]:
        contenders = workload["contenders"]
        others = {name: each["seconds"] for name, each in contenders.items() if name not in OURS}
        for name, mine in contenders.items():
            if name in OURS:
                yield Ratio(
                    workload,
                    name,
                    mine["of_floor"],
                    {other: _paired(theirs, mine["seconds"]) for other, theirs in others.items()},
                )


def _paired(theirs: list[float], mine: list[float]) -> float:
    return statistics.median(t / m for t, m in zip(theirs, mine, strict=True))
