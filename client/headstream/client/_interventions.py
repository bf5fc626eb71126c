"""Changes to the model for one request: what users write, and the contract's messages of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from headstream.client._inputs import text_input
from headstream.v1 import types_pb2 as pb

if TYPE_CHECKING:
    from headstream.client._inputs import Text
    from headstream.client._results import Array
    from headstream.client._sites import SiteName

Layers: TypeAlias = int | Sequence[int]
Positions: TypeAlias = tuple[int, int | None]
"""[start, end); no end: as far as there are tokens, generated ones too."""


@dataclass(frozen=True, slots=True, eq=False)
class Intervention:
    """A change to the model for one request: `Add`, `Scale` or `Patch`."""

    site: SiteName
    layers: Layers  # 1 to L


@dataclass(frozen=True, slots=True, eq=False)
class Add(Intervention):
    """Add a vector, times a factor, to the rows of a place.

    Steering is this, at `resid_post` of a middle layer.
    """

    vector: Array | Sequence[float]  # [width of the place], of a head where it has heads
    heads: Sequence[int] = ()  # empty: all, or the place has none
    positions: Positions = (0, None)
    factor: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Scale(Intervention):
    """Multiply the rows of a place; 0 takes a head or a layer out."""

    factor: float
    heads: Sequence[int] = ()  # empty: all, or the place has none
    positions: Positions = (0, None)


@dataclass(frozen=True, slots=True, eq=False)
class Patch(Intervention):
    """Put in what the same place has, at the same positions, when the model reads another text."""

    text: Text  # the other one, special tokens included
    heads: Sequence[int] = ()  # empty: all, or the place has none
    positions: Positions = (0, None)  # no end: that of the other text


def to_messages(interventions: Sequence[Intervention]) -> list[pb.Intervention]:
    """The changes as the contract has them.

    Raises:
        ValueError: A vector is not a list of numbers.
    """
    return [_to_message(each) for each in interventions]


def _to_message(change: Intervention) -> pb.Intervention:
    match change:
        case Add():
            message = _place(change, change.heads, change.positions)
            vector = np.asarray(change.vector, "<f4")
            if vector.ndim != 1:
                raise ValueError(f"the vector of {change.site} has {vector.ndim} axes, not one")
            message.add.vector, message.add.factor = vector.tobytes(), change.factor
        case Scale():
            message = _place(change, change.heads, change.positions)
            message.scale = change.factor
        case Patch():
            message = _place(change, change.heads, change.positions)
            message.patch_from.CopyFrom(text_input(change.text))
        case _:
            raise TypeError(f"{change!r} is neither Add, Scale nor Patch")
    return message


def _place(change: Intervention, heads: Sequence[int], positions: Positions) -> pb.Intervention:
    start, end = positions
    return pb.Intervention(
        site=change.site,
        layers=np.atleast_1d(change.layers).tolist(),  # numpy's numbers, too
        heads=heads,
        position_start=start,
        position_end=end,
    )
