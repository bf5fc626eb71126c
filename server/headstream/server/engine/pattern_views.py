"""Attention weights of one sequence, beside the kernels, from its queries and keys.

The keys are kept here, apart from the block pool, whose layout belongs to the kernels. Weights are
computed on the tiles of the prefill grid, and row by row behind the prompt: in shapes that follow
from the sequence alone, whatever steps it was cut into.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headstream.model.batch import PREFILL_GRID, Places
from headstream.model.config import ModelConfig
from headstream.model.patterns import GrowingRows, attention_scores, roll_out
from headstream.model.sites import PatternSpec, SiteSpec, TraceSpec
from headstream.server.engine.look import Pattern, Seen, SiteValues
from headstream.server.engine.report import Frames
from headstream.server.engine.views import Shown, Span


class Comparison:
    """Queries against all keys of the sequence, in the layers that somebody looks at."""

    def __init__(
        self, layers: Sequence[int], config: ModelConfig, num_prompt: int, end: int
    ) -> None:
        """``end``: behind the last position whose query is wanted."""
        self.layers = tuple(layers)
        self.end = end
        self._specs = config.attention
        self._causal = config.causal
        self._num_prompt = num_prompt
        self._most_keys = end if config.causal else num_prompt
        self._keys = GrowingRows(self._most_keys)

    def places(self, span: Span, positions: range) -> dict[Places, range]:
        """The queries at ``positions``, and all keys that theirs, or later ones, are compared with.

        Nothing, once all that is wanted has been shown.
        """
        keys = range(span.start, min(span.end, self.end) if self._causal else span.end)
        if not keys or span.fresh >= self.end:
            return {}
        places: dict[Places, range] = {("k", self.layers): keys}
        if positions:
            places["q", self.layers] = positions
        return places

    def keys(self, index: int, shown: Mapping[Places, Shown]) -> Tensor:
        """All keys [m, G, D] of a layer so far, those of this step included."""
        fresh = shown["k", self.layers]
        rows = fresh.rows[index, : self._most_keys - fresh.start]  # others may want later ones
        return self._keys.extend(self.layers[index], fresh.start, rows)

    def queries(self, index: int, shown: Mapping[Places, Shown], positions: range) -> Tensor:
        """Those [n, H, D] of a layer at some of the positions of this step."""
        return shown["q", self.layers].at(positions)[index]

    def tiles(self, positions: range) -> Iterator[range]:
        """The positions in parts that are computed at once."""
        start = positions.start
        while start < positions.stop:
            end = start + 1
            if start < self._num_prompt:
                end = min(start - start % PREFILL_GRID + PREFILL_GRID, self._num_prompt)
            yield range(start, min(end, positions.stop))
            start = end

    def scores(self, layer: int, q: Tensor, queries: Sequence[int], keys: Tensor) -> Tensor:
        """float32 [H, n, K] of the ``queries`` of a tile, q [n, H, D].

        K is the length of the prompt, or behind it all tokens so far.
        """
        last = queries[-1] + 1
        at = torch.tensor(queries, device=q.device)
        num_keys = max(last, self._num_prompt)
        return attention_scores(self._specs[layer - 1], q, at, self.seen(keys, last), num_keys)

    def seen(self, rows: Tensor, end: int) -> Tensor:
        """Those of all ``rows`` so far [m, ...] that the positions up to ``end`` may see."""
        return rows[:end] if self._causal else rows

    def forget(self) -> None:
        """The sequence is computed from its beginning again."""
        self._keys = GrowingRows(self._most_keys)


class TracedPatterns:
    """The sites attn_scores and pattern of a trace."""

    def __init__(self, sites: Sequence[SiteSpec], trace: TraceSpec, compare: Comparison) -> None:
        self._sites = sites
        self._trace = trace
        self._compare = compare

    def places(self, span: Span) -> dict[Places, range]:
        """Queries of the positions that are traced, and keys."""
        return self._compare.places(span, span.within(self._trace.start, self._trace.end))

    def see(self, span: Span, shown: Mapping[Places, Shown], frames: Frames) -> Seen:
        """The values of both sites, [1, n, heads, keys]; -inf and 0 at keys that are not seen."""
        positions = span.within(self._trace.start, self._trace.end)
        sites: list[SiteValues] = []
        for index, layer in enumerate(self._compare.layers):
            keys = self._compare.keys(index, shown)
            for tile in self._compare.tiles(positions):
                q = self._compare.queries(index, shown, tile)
                scores = self._compare.scores(layer, q, tile, keys)  # [H, n, K]
                for site in self._sites:
                    if layer in site.layers:
                        rows = scores[list(site.heads)]
                        rows = (rows.softmax(-1) if site.name == "pattern" else rows).transpose(
                            0, 1
                        )
                        frame = frames.add(rows.unsqueeze(0).cpu(), self._trace.dtype)
                        sites.append(SiteValues(site.name, (layer,), tile.start, frame))
        return Seen(sites=tuple(sites))

    def forget(self) -> None:
        """Keys are computed again."""
        self._compare.forget()


class PatternView:
    """Attention weights of chosen queries, layer by layer."""

    def __init__(self, spec: PatternSpec, compare: Comparison) -> None:
        self._spec = spec
        self._compare = compare

    def places(self, span: Span) -> dict[Places, range]:
        """Queries from the first to the last that is chosen in the step, and keys."""
        queries = self._queries(span.within(0, None))
        positions = range(queries[0], queries[-1] + 1) if queries else range(0)
        return self._compare.places(span, positions)

    def see(self, span: Span, shown: Mapping[Places, Shown], frames: Frames) -> Seen:
        """The weights of the queries of the step."""
        patterns: list[Pattern] = []
        for index, layer in enumerate(self._compare.layers):
            keys = self._compare.keys(index, shown)
            for tile in self._compare.tiles(span.within(0, self._compare.end)):
                if not (queries := self._queries(tile)):
                    continue
                q = shown["q", self._compare.layers]  # [layers, n, H, D]
                rows = torch.tensor(queries, device=q.rows.device) - q.start
                scores = self._compare.scores(layer, q.rows[index, rows], queries, keys)
                weights = scores[list(self._spec.heads)].softmax(-1)  # [heads, n, K]
                if self._spec.average_heads:
                    weights = weights.mean(0, keepdim=True)
                patterns.append(_pattern(layer, queries, weights, self._spec, frames))
        return Seen(patterns=tuple(patterns))

    def forget(self) -> None:
        """Keys are computed again."""
        self._compare.forget()

    def _queries(self, positions: range) -> tuple[int, ...]:
        """Those that are chosen among consecutive positions."""
        chosen = self._spec.queries
        first, last = (bisect_left(chosen, edge) for edge in (positions.start, positions.stop))
        return chosen[first:last]


class RolloutView:
    """Attention rolled out over layers: a row needs those of all tokens before it."""

    def __init__(self, spec: PatternSpec, compare: Comparison, num_prompt: int) -> None:
        self._spec = spec
        self._compare = compare
        self._num_prompt = num_prompt
        self._rolled = GrowingRows(num_prompt)  # layer -> [num_prompt, num_prompt]

    def places(self, span: Span) -> dict[Places, range]:
        """All queries and keys up to the last query that is chosen."""
        return self._compare.places(span, self._positions(span))

    def see(self, span: Span, shown: Mapping[Places, Shown], frames: Frames) -> Seen:
        """The rows of the top layer of the queries of the step."""
        positions = self._positions(span)
        below: Tensor | None = None
        for index, layer in enumerate(self._compare.layers):
            keys = self._compare.keys(index, shown)
            rows: list[Tensor] = []
            for tile in self._compare.tiles(positions):
                q = self._compare.queries(index, shown, tile)
                scores = self._compare.scores(layer, q, tile, keys)
                weights = scores[list(self._spec.heads)].softmax(-1)  # [heads, n, K]
                under = None if below is None else self._compare.seen(below, tile.stop)
                rows.append(roll_out(weights, tile.start, under))
            below = self._rolled.extend(layer, positions.start, torch.cat(rows))
        queries = [query for query in self._spec.queries if query in span.within(0, None)]
        if below is None or not queries:
            return Seen()
        weights = below[queries].unsqueeze(0)  # [1, n, K]
        return Seen(patterns=(_pattern(0, tuple(queries), weights, self._spec, frames),))

    def forget(self) -> None:
        """All rows are computed again."""
        self._compare.forget()
        self._rolled = GrowingRows(self._num_prompt)

    def _positions(self, span: Span) -> range:
        """Rows that were shown before are computed all the same: those behind them need them."""
        return replace(span, fresh=0).within(0, self._compare.end)


def _pattern(
    layer: int, queries: tuple[int, ...], weights: Tensor, spec: PatternSpec, frames: Frames
) -> Pattern:
    """Weights [heads, n, K] on their way to the front, or the largest of them."""
    if not spec.top_k:
        return Pattern(layer, queries, frames.add(weights.cpu(), spec.dtype))
    largest, keys = weights.topk(min(spec.top_k, weights.shape[-1]))
    data = keys.int().cpu().numpy().tobytes()
    return Pattern(layer, queries, frames.add(largest.cpu(), spec.dtype), data)
