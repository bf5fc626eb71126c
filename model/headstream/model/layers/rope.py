"""Rotary position embeddings: queries and keys turned by an angle that grows with the position.

The angles of all positions are tabled once, at load. A step only looks rows up, so that a row's
bits do not depend on how many others are rotated with it (vectorised cosines may).
"""

from __future__ import annotations

import torch

from headstream.model.config import ModelConfig, RopeSpec
from headstream.model.kernels.turn_heads import RopeTable
from headstream.model.layers.rope_scaling import inverse_frequencies


def rope_table(spec: RopeSpec, d_head: int, max_model_len: int, device: torch.device) -> RopeTable:
    """Cos and sin of every position, float32 [max_model_len, r / 2], r the rotated width.

    Raises:
        UnsupportedModelError: an unknown kind of scaling.
    """
    frequencies, magnitude = inverse_frequencies(spec, spec.dims or d_head)  # [r / 2]
    positions = torch.arange(max_model_len, dtype=torch.float32)
    angles = positions[:, None] * frequencies  # [max_model_len, r / 2]
    # Computed on the CPU whatever the device, so that all devices rotate by the same bits.
    return RopeTable((angles.cos() * magnitude).to(device), (angles.sin() * magnitude).to(device))


def rope_tables(config: ModelConfig, device: torch.device) -> list[RopeTable]:
    """The table of each layer [L]; layers with equal specs share one."""
    specs: list[RopeSpec] = []
    for spec in config.rope:
        if spec not in specs:
            specs.append(spec)
    tables = [rope_table(spec, config.d_head, config.max_model_len, device) for spec in specs]
    return [tables[specs.index(spec)] for spec in config.rope]
