"""What one sequence shows of the inside of the model, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from headstream.model.batch import Places
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
    """The rows of a site at consecutive positions, in several layers, on the device."""

    start: int
    rows: Tensor  # [layers, n, ...]

    def at(self, positions: range) -> Tensor:
        """Those of some of the positions."""
        return self.rows[:, positions.start - self.start : positions.stop - self.start]


class View(Protocol):
    """One look of one sequence."""

    def places(self, span: Span) -> dict[Places, range]:
        """The positions of a step whose rows it needs, for all places that it needs any of."""
        ...

    def see(self, span: Span, shown: Mapping[Places, Shown], frames: Frames) -> Seen:
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

    def places(self, span: Span) -> dict[Places, range]:
        """Those positions of the step that are traced."""
        positions = span.within(self._trace.start, self._trace.end)
        return {(site.name, site.layers): positions for site in self._sites if positions}

    def see(self, span: Span, shown: Mapping[Places, Shown], frames: Frames) -> Seen:
        """The values of all sites, one tensor for the layers of each."""
        positions = span.within(self._trace.start, self._trace.end)
        values = (self._values(site, positions, shown, frames) for site in self._sites)
        return Seen(sites=tuple(values))

    def forget(self) -> None:
        """Nothing is kept."""

    def _values(
        self, site: SiteSpec, positions: range, shown: Mapping[Places, Shown], frames: Frames
    ) -> SiteValues:
        rows = shown[site.name, site.layers].at(positions)  # [layers, n, ...]
        if site.heads:
            rows = rows[:, :, list(site.heads)]  # [layers, n, heads, D]
        frame = frames.add(rows.cpu(), self._trace.dtype)
        return SiteValues(site.name, site.layers, positions.start, frame)
