"""How what a half of a layer gives goes into the residual stream of models with RMSNorm."""

from __future__ import annotations

from torch import Tensor

from headstream.model.kernels import Kernels
from headstream.model.kernels.norm import Gain
from headstream.model.probe import Probe
from headstream.model.sites import SiteName


class Adder:
    """resid += y, or y normed, in place: what is added is the ``site`` of the half.

    Where y is normed on the way, what is added stands in no memory: the kernel does all at once. So
    it is computed beside it for those who ask, and rows that are changed are added again.
    """

    def __init__(self, site: SiteName, gain: Gain | None, kernels: Kernels) -> None:
        """``site``: attn_out or mlp_out. ``gain`` of y; None: it is added as it is."""
        self._site: SiteName = site
        self._gain = gain
        self._kernels = kernels

    def add(self, resid: Tensor, y: Tensor, probe: Probe) -> None:
        """Add y [N, d] to ``resid`` [N, d]."""
        again = self._show(resid, y, probe)
        self._kernels.add(resid, y, self._gain)
        if again is not None:
            rows, sums = again
            resid[rows] = sums

    def add_norm(self, resid: Tensor, y: Tensor, gain: Gain, probe: Probe) -> Tensor:
        """The same, and the sum normed by ``gain`` [N, d]; the sum is ``resid_mid``."""
        again = self._show(resid, y, probe)
        x = self._kernels.add_norm(resid, y, self._gain, gain)
        if again is not None:
            rows, sums = again
            resid[rows] = sums
            x[rows] = self._kernels.rms_norm(sums, gain)
        return probe.normed("resid_mid", resid, x, lambda rows: self._kernels.rms_norm(rows, gain))

    def _show(self, resid: Tensor, y: Tensor, probe: Probe) -> tuple[Tensor, Tensor] | None:
        """Rows int64 [r] that the kernel will not add as they shall be, and their sums [r, d]."""
        if self._gain is None:
            probe(self._site, y)
            return None
        if not probe.asks(self._site):
            return None
        term = probe(self._site, self._kernels.rms_norm(y, self._gain))  # [N, d]
        if (rows := probe.edited(self._site)) is None:
            return None
        sums = resid[rows]  # [r, d], a copy
        self._kernels.add(sums, term[rows], None)
        return rows, sums
