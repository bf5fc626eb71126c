"""From the looks of a sequence to what its steps must keep, and what they show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headstream.model.batch import Places
from headstream.model.config import ModelConfig
from headstream.model.site_shapes import PATTERN_SITES
from headstream.server.engine.edits import SequenceEdits
from headstream.server.engine.lens import Lens
from headstream.server.engine.look import Look, Seen
from headstream.server.engine.pattern_views import (
    Comparison,
    PatternView,
    RolloutView,
    TracedPatterns,
)
from headstream.server.engine.report import Frames
from headstream.server.engine.sequence import Sequence
from headstream.server.engine.sites import check_look
from headstream.server.engine.views import Shown, SiteView, Span, View


def prepare(sequence: Sequence, config: ModelConfig) -> None:
    """Give a sequence, and its siblings, what they need to show and change the model.

    Raises:
        ValueError: the model has no such place, or values do not fit it.
    """
    spec = sequence.spec
    if spec.edits:
        sequence.edits = SequenceEdits(spec.edits, config)
        for sibling in sequence.siblings:
            sibling.edits = sequence.edits
    if spec.look == Look():
        return
    if spec.branch or spec.siblings:
        raise ValueError("branches, and several continuations, show nothing of the inside")
    check_look(spec.look, config, sequence.num_prompt)
    sequence.views = _views(spec.look, config, sequence.num_prompt, sequence.max_tokens)
    if spec.look.lens is not None:
        sequence.lens = Lens(spec.look.lens)


def _views(look: Look, config: ModelConfig, num_prompt: int, longest: int) -> tuple[View, ...]:
    """The views of a sequence of ``num_prompt`` tokens that grows to ``longest``."""
    views: list[View] = []
    if (trace := look.trace) is not None:
        plain = [site for site in trace.sites if site.name not in PATTERN_SITES]
        if plain:
            views.append(SiteView(plain, trace))
        compared = [site for site in trace.sites if site.name in PATTERN_SITES]
        if compared:
            layers = sorted({layer for site in compared for layer in site.layers})
            end = longest if trace.end is None else min(trace.end, longest)
            comparison = Comparison(layers, config, num_prompt, end)
            views.append(TracedPatterns(compared, trace, comparison))
    if (spec := look.attention) is not None:
        # In an encoder a rollout takes what it brings to a token from those behind it, too.
        needs_all = spec.rollout and not config.causal
        end = num_prompt if needs_all else spec.queries[-1] + 1
        comparison = Comparison(spec.layers, config, num_prompt, end)
        if spec.rollout:
            views.append(RolloutView(spec, comparison, num_prompt))
        else:
            views.append(PatternView(spec, comparison))
    return tuple(views)


@dataclass(frozen=True, slots=True)
class SiteRows:
    """Rows [offset, ...) of what a step keeps of a site belong to these positions."""

    offset: int
    positions: range


def wanted(views: tuple[View, ...], span: Span) -> dict[Places, range]:
    """The positions of a step whose rows are needed, for all places that are kept together."""
    needed: dict[Places, range] = {}
    for view in views:
        for places, positions in view.places(span).items():
            other = needed.get(places, positions)
            needed[places] = range(
                min(other.start, positions.start), max(other.stop, positions.stop)
            )
    return needed


@dataclass(frozen=True, slots=True)
class Sight:
    """What a step keeps of the sites of one sequence."""

    sequence: Sequence
    span: Span
    rows: Mapping[Places, SiteRows]

    def see(self, kept: Mapping[Places, Tensor], frames: Frames) -> Seen:
        """What it shows; ``kept``: the rows of all sequences, [layers, rows, ...] each."""
        shown: dict[Places, Shown] = {}
        for places, own in self.rows.items():
            values = kept[places][:, own.offset : own.offset + len(own.positions)]
            shown[places] = Shown(own.positions.start, values)
        views = [view for view in self.sequence.views if view.places(self.span)]
        parts = [view.see(self.span, shown, frames) for view in views]
        return Seen(
            sites=tuple(site for part in parts for site in part.sites),
            patterns=tuple(pattern for part in parts for pattern in part.patterns),
        )


@torch.inference_mode()
def see_all(
    sights: Iterable[Sight], kept: Mapping[Places, Tensor], frames: Frames
) -> tuple[dict[Sequence, Seen], dict[Sequence, str]]:
    """What the sequences of a step show, and the faults of those for which it went wrong."""
    seen: dict[Sequence, Seen] = {}
    faults: dict[Sequence, str] = {}
    for sight in sights:
        try:
            shows = sight.see(kept, frames)
        except Exception as error:  # one look's fault ends its own sequence, not the step
            faults[sight.sequence] = repr(error)
        else:
            if shows != Seen():
                seen[sight.sequence] = shows
    return seen, faults
