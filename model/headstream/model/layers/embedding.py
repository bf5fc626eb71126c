"""Static embeddings: one learned row per token id."""

from __future__ import annotations

from torch import Tensor

from headstream.model.kernels.look_up import LookUp, look_up_rows


class Embedding:
    """ids int64 [n] -> rows of E [V, d], times a scale: [n, d].

    The scale is rounded to the weights' dtype first, because that is how Gemma was trained
    (sqrt(640) is 25.25 in bfloat16).
    """

    def __init__(self, weight: Tensor, scale: float = 1.0, look_up: LookUp = look_up_rows) -> None:
        self._look_up = look_up
        self.weight = weight  # [V, d], unscaled
        self._scale = None if scale == 1.0 else weight.new_tensor(scale)

    def __call__(self, ids: Tensor) -> Tensor:
        """Look the rows up; always a fresh tensor."""
        rows = self._look_up(self.weight, ids)
        return rows if self._scale is None else rows * self._scale
