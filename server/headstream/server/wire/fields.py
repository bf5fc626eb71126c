"""Checks of single fields. Each error names the field and the limit."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable
from typing import TypeVar

from headstream.server.errors import InvalidRequest

Item = TypeVar("Item", bound=Hashable)


def check_int(field: str, value: int, low: int, high: int) -> int:
    """The value, if it lies in [low, high]."""
    if not low <= value <= high:
        raise InvalidRequest(field, f"{value} is not in [{low}, {high}]")
    return value


def check_finite(field: str, value: float) -> float:
    """The value, if it is a number."""
    if not math.isfinite(value):
        raise InvalidRequest(field, "not a finite number")
    return value


def check_float(field: str, value: float, low: float, high: float) -> float:
    """The value, if it is a number in [low, high]."""
    if not low <= check_finite(field, value) <= high:
        raise InvalidRequest(field, f"{value:g} is not in [{low:g}, {high:g}]")
    return value


def check_count(field: str, items: Collection[object], low: int, high: int) -> None:
    """Refuse lists that are too short or too long."""
    if not low <= len(items) <= high:
        raise InvalidRequest(field, f"has {len(items)} entries; allowed are {low} to {high}")


def check_distinct(field: str, items: Iterable[Item]) -> None:
    """Refuse lists that say one thing twice."""
    seen: set[Item] = set()
    for item in items:
        if item in seen:
            raise InvalidRequest(field, f"{item} appears twice")
        seen.add(item)


def check_token_ids(field: str, ids: Iterable[int], d_vocab: int) -> tuple[int, ...]:
    """The ids, if each is in the vocabulary."""
    checked = tuple(ids)
    if checked and max(checked) >= d_vocab:
        at = next(i for i, token_id in enumerate(checked) if token_id >= d_vocab)
        raise InvalidRequest(f"{field}[{at}]", f"{checked[at]} is not in [0, {d_vocab})")
    return checked
