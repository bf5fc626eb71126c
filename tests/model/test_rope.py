"""Rotary frequencies against transformers', and the rotation against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headstream.model.attention.base import AttentionSpec
from headstream.model.config import RopeSpec
from headstream.model.errors import UnsupportedModelError
from headstream.model.kernels import Kernels
from headstream.model.kernels.norm import Gain
from headstream.model.kernels.turn_heads import RopeTable, Turn
from headstream.model.layers.rope import rope_table
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


def table(theta: float, d_head: int, dims: int | None = None) -> RopeTable:
    return rope_table(RopeSpec(theta, dims=dims), d_head=d_head, max_model_len=128, device=CPU)


def turned(kernels: Kernels, x: Tensor, rope: RopeTable, positions: Tensor) -> Tensor:
    """Heads [n, heads, D] turned as queries; keys and values beside them are one head each."""
    n, heads, d_head = x.shape
    qkv = torch.cat([x, torch.randn(n, 2, d_head, dtype=x.dtype)], dim=1).flatten(1)
    spec = AttentionSpec(heads, 1, d_head, scale=1.0)
    kernels.turn_heads(spec, qkv, Turn(rope=rope), positions)
    return qkv.unflatten(1, (-1, d_head))[:, :heads]


def test_rotation_turns_each_pair_by_its_angle(kernels: Kernels) -> None:
    x = torch.randn(3, 2, 4)
    positions = torch.tensor([0, 5, 11])
    as_complex = torch.complex(x[..., :2], x[..., 2:])  # pairs (0, 2) and (1, 3)
    angles = positions[:, None, None] * torch.tensor([1.0, 0.1])
    wanted = as_complex * torch.polar(torch.ones_like(angles), angles)
    found = turned(kernels, x, table(100.0, 4), positions)
    torch.testing.assert_close(found, torch.cat([wanted.real, wanted.imag], -1))


def test_dimensions_behind_the_rotated_width_are_kept(kernels: Kernels) -> None:
    x = torch.randn(3, 2, 6)
    positions = torch.tensor([1, 2, 3])
    rope = table(100.0, 6, dims=4)
    found = turned(kernels, x, rope, positions)
    assert torch.equal(found[..., 4:], x[..., 4:])
    assert torch.equal(found[..., :4], turned(kernels, x[..., :4], rope, positions))


def test_a_row_does_not_depend_on_the_others(kernels: Kernels) -> None:
    x, rope = torch.randn(100, 4, 64), table(10000.0, 64)
    together = turned(kernels, x, rope, torch.arange(100))
    for r in (0, 1, 17, 99):
        assert torch.equal(turned(kernels, x[r : r + 1], rope, torch.tensor([r]))[0], together[r])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
def test_heads_of_q_and_k_are_normed_then_rotated_and_v_is_kept(
    rotated: bool, normed: bool, dtype: torch.dtype, kernels: Kernels
) -> None:
    spec = AttentionSpec(4, 2, 16, scale=1.0)
    qkv = torch.randn(50, 8 * 16).to(dtype)
    heads = qkv.clone().unflatten(1, (8, 16)).double()  # [50, H + 2 G, D]
    gains = [Gain(torch.randn(16), 1e-6) for _ in range(2)] if normed else [None, None]
    rope = table(100.0, 16) if rotated else None
    positions = torch.randint(0, 128, (50,))
    kernels.turn_heads(spec, qkv, Turn(gains[0], gains[1], rope), positions)
    wanted = heads.clone()
    for part, gain in zip((slice(0, 4), slice(4, 6)), gains, strict=True):
        x = heads[:, part]
        if gain is not None:
            x = x / ((x**2).mean(-1, keepdim=True) + 1e-6).sqrt() * gain.values.double()
        if rope is not None:
            cos, sin = (t[positions][:, None].double() for t in (rope.cos, rope.sin))
            first, second = x.chunk(2, dim=-1)
            x = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        wanted[:, part] = x
    unit = 2**-8 if dtype == torch.bfloat16 else 2**-19
    found = qkv.unflatten(1, (8, 16)).double()
    torch.testing.assert_close(found, wanted, atol=unit, rtol=unit)
    assert torch.equal(found[:, 6:], heads[:, 6:])
