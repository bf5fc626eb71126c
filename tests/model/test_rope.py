"""Rotary frequencies against transformers', and the rotation against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headstream.model.config import RopeSpec
from headstream.model.errors import UnsupportedModelError
from headstream.model.layers.rope import RopeTable, rotate
from headstream.model.layers.rope_scaling import inverse_frequencies

CPU = torch.device("cpu")
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("linear", {"factor": 8.0}),
    ("llama3", LLAMA3),
    ("yarn", YARN),
    ("yarn", YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5}),
    ("yarn", YARN | {"mscale": 0.707, "mscale_all_dim": 1.0, "truncate": False}),
]


@pytest.mark.parametrize(("kind", "parameters"), CASES)
def test_frequencies_equal_transformers(kind: str, parameters: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": kind, "rope_theta": 500000.0, **parameters}
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, head_dim=128, rope_parameters=rope)
    wanted, wanted_magnitude = ROPE_INIT_FUNCTIONS[kind](config)
    found, magnitude = inverse_frequencies(RopeSpec(500000.0, kind, parameters), 128)
    torch.testing.assert_close(found, wanted, atol=0, rtol=1e-6)
    assert magnitude == pytest.approx(wanted_magnitude)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"longrope.*known: default"):
        inverse_frequencies(RopeSpec(1e4, "longrope"), 8)


def test_missing_parameter_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match="'low_freq_factor'"):
        inverse_frequencies(RopeSpec(1e4, "llama3"), 8)


def test_rotation_turns_each_pair_by_its_angle() -> None:
    table = RopeTable(RopeSpec(100.0), d_head=4, max_model_len=16, device=CPU)
    x = torch.randn(3, 2, 4)
    positions = torch.tensor([0, 5, 11])
    turned = rotate(x, table.rows(positions, torch.float32))
    as_complex = torch.complex(x[..., :2], x[..., 2:])  # pairs (0, 2) and (1, 3)
    angles = positions[:, None, None] * torch.tensor([1.0, 0.1])
    wanted = as_complex * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat([wanted.real, wanted.imag], -1))


def test_dimensions_behind_the_rotated_width_are_kept() -> None:
    table = RopeTable(RopeSpec(100.0, dims=4), d_head=6, max_model_len=16, device=CPU)
    x = torch.randn(3, 2, 6)
    rotation = table.rows(torch.tensor([1, 2, 3]), torch.float32)
    turned = rotate(x, rotation)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.equal(turned[..., :4], rotate(x[..., :4], rotation))


def test_a_row_does_not_depend_on_the_others() -> None:
    table = RopeTable(RopeSpec(10000.0), d_head=64, max_model_len=128, device=CPU)
    x = torch.randn(100, 4, 64)
    together = rotate(x, table.rows(torch.arange(100), torch.float32))
    for r in (0, 1, 17, 99):
        alone = rotate(x[r : r + 1], table.rows(torch.tensor([r]), torch.float32))
        assert torch.equal(alone[0], together[r])
