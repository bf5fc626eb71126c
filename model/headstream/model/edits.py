"""Changes to rows of a site, as a step makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class RowEdit:
    """A change to some rows of a site, and to no others: see :class:`headstream.model.sites.Edit`.

    Computed in float32 and rounded once, element by element, so that a row has the same bits
    whichever others are changed with it.
    """

    rows: Tensor  # int64 [r] of X, ascending
    kind: Literal["add", "scale", "set"]
    factor: float
    heads: Tensor | None = None  # int64 [h]; None: the site has none
    values: Tensor | None = None  # float32: [width] to add, or [r, (h,) width] to set

    def apply(self, x: Tensor) -> None:
        """Change the rows of x [N, width] or [N, heads, width], in place."""
        place = (self.rows,) if self.heads is None else (self.rows[:, None], self.heads)
        x[place] = self._changed(x[place].float()).to(x.dtype)  # [r, width] or [r, h, width]

    def _changed(self, part: Tensor) -> Tensor:
        if self.kind == "scale":
            return part * self.factor
        assert self.values is not None
        return part + self.values * self.factor if self.kind == "add" else self.values

    def to(self, device: torch.device) -> RowEdit:
        """The same with its tensors on ``device``."""
        heads = None if self.heads is None else self.heads.to(device)
        values = None if self.values is None else self.values.to(device)
        return RowEdit(self.rows.to(device), self.kind, self.factor, heads, values)
