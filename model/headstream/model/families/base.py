"""What every model family is to the runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from headstream.model.attention.base import Attend
from headstream.model.batch import Taps
from headstream.model.config import ModelConfig

Linear = Callable[[Tensor], Tensor]
"""x [M, K] -> [M, out]; owns its weight, packed for the device."""

MakeLinear = Callable[[Tensor, Tensor | None], Linear]
"""(weight [out, K], bias [out] or None) -> Linear; the device's way of packing weights."""


class Model(Protocol):
    """A decoder: static embeddings, a residual stream that layers add to, an unembedding."""

    config: ModelConfig

    def static_embeddings(self, input_ids: Tensor) -> Tensor:
        """Rows of E [n, d] for ``input_ids`` int64 [n], scaled as the layers see them."""
        ...

    def forward(self, input_ids: Tensor, positions: Tensor, attend: Attend, taps: Taps) -> Tensor:
        """Run all layers over the packed rows.

        ``input_ids``, ``positions``: int64 [N]. Records layer 0 (the embedding output) to L (after
        the last layer) in ``taps``. Returns the residual stream [N, d], before the final norm.
        """
        ...

    def final_norm(self, resid: Tensor) -> Tensor:
        """The final norm of rows [R, d] -> [R, d]."""
        ...

    def unembed(self, rows: Tensor) -> Tensor:
        """Normed rows [R, d] -> logits [R, V], in the weights' dtype."""
        ...

    def rescore(self, rows: Tensor, token_ids: Tensor) -> Tensor:
        """Exact logits of chosen tokens: rows [R, d], ids int64 [R, K] -> float32 [R, K].

        Every row's sum runs in float32 and depends on that row alone.
        """
        ...
