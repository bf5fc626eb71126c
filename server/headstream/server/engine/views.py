"""What one sequence shows of the inside of the model, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from headstream.model.batch import Place
from headstream.model.config import ModelConfig
from headstream.model.site_shapes import shape_of
from headstream.model.sites import SiteName, SiteSpec, TraceSpec
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
        return self.rows[positions.start - self.start : positions.stop - self.start]


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

    def __init__(self, sites: Sequence[SiteSpec], trace: TraceSpec, config: ModelConfig) -> None:
        self._trace = trace
        self._heads: dict[Place, list[int] | None] = {}
        for site in sites:
            heads = list(site.heads) if shape_of(site.name, config).heads else None
            self._heads.update({(site.name, layer): heads for layer in site.layers})

    def places(self, span: Span) -> dict[Place, range]:
        """Those positions of the step that are traced."""
        positions = span.within(self._trace.start, self._trace.end)
        return dict.fromkeys(self._heads, positions) if positions else {}

    def see(self, span: Span, shown: Mapping[Place, Shown], frames: Frames) -> Seen:
        """The values of all sites."""
        positions = span.within(self._trace.start, self._trace.end)
        places = self._heads
        return Seen(sites=tuple(self._values(place, positions, shown, frames) for place in places))

    def forget(self) -> None:
        """Nothing is kept."""

    def _values(
        self, place: Place, positions: range, shown: Mapping[Place, Shown], frames: Frames
    ) -> SiteValues:
        rows = shown[place].at(positions)  # [n, ...]
        if (heads := self._heads[place]) is not None:
            rows = rows[:, heads]
        return site_values(place, positions.start, rows, self._trace, frames)


def site_values(
    place: tuple[SiteName, int], start: int, rows: Tensor, trace: TraceSpec, frames: Frames
) -> SiteValues:
    """Rows [n, ...] of a place, on their way to the front."""
    site, layer = place
    return SiteValues(site, layer, start, frames.add(rows.cpu(), trace.dtype))
