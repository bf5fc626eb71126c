"""Rotary position embeddings: queries and keys turned by an angle that grows with the position.

The angles of all positions are tabled once, at load. A step only gathers rows, so that a row's
bits do not depend on how many others are rotated with it (vectorised cosines may).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headstream.model.config import ModelConfig, RopeSpec
from headstream.model.layers.rope_scaling import inverse_frequencies

Rotation = tuple[Tensor, Tensor]
"""cos, sin [N, 1, r / 2] of the step's rows; the middle dimension spreads over heads."""


class RopeTable:
    """cos and sin of every position, float32 [max_model_len, r / 2], r the rotated width.

    RoFormer (Su et al. 2021, arXiv:2104.09864), with dimension i paired to i + r / 2
    ("rotate half"), the order Hugging Face checkpoints are stored in.
    """

    def __init__(
        self, spec: RopeSpec, d_head: int, max_model_len: int, device: torch.device
    ) -> None:
        frequencies, magnitude = inverse_frequencies(spec, spec.dims or d_head)  # [r / 2]
        positions = torch.arange(max_model_len, dtype=torch.float32)
        angles = positions[:, None] * frequencies  # [max_model_len, r / 2]
        # Computed on the CPU whatever the device, so that all devices rotate by the same bits.
        self.cos = (angles.cos() * magnitude).to(device)
        self.sin = (angles.sin() * magnitude).to(device)

    def rows(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Gather the rows of ``positions`` int64 [N], rounded to ``dtype``."""
        cos = torch.index_select(self.cos, 0, positions).to(dtype)
        sin = torch.index_select(self.sin, 0, positions).to(dtype)
        return cos[:, None], sin[:, None]  # [N, 1, r / 2]


class Rope:
    """The tables of all layers; layers with equal specs share one."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        specs: list[RopeSpec] = []
        for spec in config.rope:
            if spec not in specs:
                specs.append(spec)
        self._tables = [
            RopeTable(spec, config.d_head, config.max_model_len, device) for spec in specs
        ]
        self._table_of_layer = [specs.index(spec) for spec in config.rope]

    def rows(self, positions: Tensor, dtype: torch.dtype) -> Sequence[Rotation]:
        """Gather once a step: the rotation of each layer [L] for ``positions`` int64 [N]."""
        rotations = [table.rows(positions, dtype) for table in self._tables]
        return [rotations[index] for index in self._table_of_layer]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the first r of the D dimensions of x [N, heads, D]; returns a new [N, heads, D]."""
    cos, sin = rotation
    half = cos.shape[-1]
    first, second = x[..., :half], x[..., half : 2 * half]  # [N, heads, r / 2]
    turned = [first * cos - second * sin, second * cos + first * sin]
    if x.shape[-1] > 2 * half:
        turned.append(x[..., 2 * half :])
    return torch.cat(turned, dim=-1)
