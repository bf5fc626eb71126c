"""What one sequence shows of the inside of the model, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from headstream.model.batch import Place
from headstream.model.sites import SiteSpec, TraceSpec
from headstream.server.engine.look import Seen, SiteValues
from headstream.server.engine.report import Frames


@dataclass(frozen=True, slots=True)
class Span:
    """The positions [start, end) of a step; those before ``fresh`` were shown before."""

    start: int
    end: int
    fresh: int

    def within(self, first: int, last: int | None) -> range:
        """Those to be shown of the positions [first, last)."""
        end = self.end if last is None else min(self.end, last)
        begin = max(self.start, self.fresh, first)
        return range(begin, max(begin, end))


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The rows of a site at consecutive positions, on the device."""

    start: int
    rows: Tensor  # [n, ...]

    def at(self, positions: range) -> Tensor:
        """Those of some of the positions."""
        first = positions.start - self.start
        if first == 0 and len(positions) == len(self.rows):
            return self.rows
        return self.rows[first : first + len(positions)]


class View(Protocol):
    """One look of one sequence."""

    def places(self, span: Span) -> dict[Place, range]:
        """The positions of a step whose rows it needs, for each place that it needs any of."""
        ...

    def see(self, span: Span, shown: Mapping[Place, Shown], frames: Frames) -> Seen:
        """What there is to tell of a step that it needs rows of; ``shown`` has at least those."""
        ...

    def forget(self) -> None:
        """The sequence is computed from its beginning again."""
        ...


class SiteView:
    """The sites of a trace that are there as they are asked for."""

    def __init__(self, sites: Sequence[SiteSpec], trace: TraceSpec) -> None:
        self._trace = trace
        self._sites = sites
        self._places: list[Place] = [(site.name, layer) for site in sites for layer in site.layers]

    def places(self, span: Span) -> dict[Place, range]:
        """Those positions of the step that are traced."""
        positions = span.within(self._trace.start, self._trace.end)
        return dict.fromkeys(self._places, positions) if positions else {}

    def see(self, span: Span, shown: Mapping[Place, Shown], frames: Frames) -> Seen:
        """The values of all sites, the layers of each in one tensor: a tensor costs, not a row."""
        positions = span.within(self._trace.start, self._trace.end)
        return Seen(sites=tuple(self._values(site, positions, shown, frames) for site in self._sites))

    def forget(self) -> None:
        """Nothing is kept."""

    def _values(
        self, site: SiteSpec, positions: range, shown: Mapping[Place, Shown], frames: Frames
    ) -> SiteValues:
        rows = torch.stack([shown[site.name, layer].at(positions) for layer in site.layers])
        if site.heads:
            rows = rows[:, :, list(site.heads)]  # [layers, n, heads, D]
        frame = frames.add(rows.cpu(), self._trace.dtype)
        return SiteValues(site.name, site.layers, positions.start, frame)
