"""What the layers show on their way through a step, and what is changed there.

A layer hands each of its sites to the probe and goes on with what it gets back: the same tensor, of
which the rows that somebody wants have been copied, and in which the rows that somebody changes
have been changed in place. All other rows keep their bits, and a site nobody asks about costs a
look into an empty table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from headstream.model.attention.base import Attend
from headstream.model.batch import Place, Places
from headstream.model.edits import RowEdit
from headstream.model.sites import SiteName

_ATTENTION = ("q", "k", "v", "z")
_Norm = Callable[[Tensor], Tensor]


class Probe:
    """Collects rows of one step, and changes some, while the ordinary pass runs."""

    def __init__(
        self,
        taps: Mapping[int, Tensor],
        sites: Mapping[Places, Tensor] | None = None,
        edits: Mapping[Place, tuple[RowEdit, ...]] | None = None,
    ) -> None:
        """Rows (int64) to keep: ``taps`` of the residual stream, by its number 0 to L; ``sites``.

        ``edits`` of a site are made in order, before its rows are kept.
        """
        self._taps = taps
        self._edits = edits or {}
        self._layer = 0
        self.rows: dict[int, Tensor] = {}  # number of the stream -> [rows, d]
        self.values: dict[Places, Tensor] = {}
        """What was kept of the sites that the layers have shown, [layers, rows, ...]."""
        self._wanted: dict[Place, list[tuple[Places, int, Tensor]]] = defaultdict(list)
        for places, rows in (sites or {}).items():
            site, layers = places
            for index, layer in enumerate(layers):
                self._wanted[site, layer].append((places, index, rows))
        self._asked = {*self._wanted, *self._edits}

    def enter(self, layer: int) -> None:
        """From now on sites are those of ``layer``, 1 to L; before, those in front of it."""
        self._layer = layer

    def record(self, layer: int, resid: Tensor) -> None:
        """Keep the wanted rows of ``resid`` [N, d], the residual stream numbered ``layer``."""
        if layer in self._taps:
            self.rows[layer] = torch.index_select(resid, 0, self._taps[layer])  # [rows, d]

    def __call__(self, site: SiteName, x: Tensor) -> Tensor:
        """``x`` [N, ...] stands at ``site``: it comes back changed in place where it is edited."""
        if self._asked and (place := (site, self._layer)) in self._asked:
            for edit in self._edits.get(place, ()):
                edit.apply(x)
            for places, index, rows in self._wanted.get(place, ()):
                if places not in self.values:
                    shape = (len(places[1]), len(rows), *x.shape[1:])  # [layers, rows, ...]
                    self.values[places] = x.new_empty(shape)
                torch.index_select(x, 0, rows, out=self.values[places][index])
        return x

    def asks(self, site: SiteName) -> bool:
        """Whether anybody wants rows of the site, or changes some."""
        return (site, self._layer) in self._asked

    def edited(self, site: SiteName) -> Tensor | None:
        """The rows of the site that are changed, int64 [r]; None: there are none."""
        edits = self._edits.get((site, self._layer))
        return torch.unique(torch.cat([edit.rows for edit in edits])) if edits else None

    def normed(self, site: SiteName, resid: Tensor, x: Tensor, norm: _Norm) -> Tensor:
        """``resid`` [N, d] stands at ``site``, and ``x`` [N, d] is its norm, already computed.

        Rows that are changed are normed again, beside the kernel that has done both at once.
        """
        self(site, resid)
        if (rows := self.edited(site)) is not None:
            x[rows] = norm(resid[rows])
        return x

    def around(self, attend: Attend) -> Attend:
        """``attend`` that shows its q, k, v and z."""
        if not any(site in _ATTENTION for site, _ in self._asked):
            return attend

        def shown(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = self("q", q), self("k", k), self("v", v)
            return self("z", attend(layer, q, k, v))  # [N, H, D]

        return shown
