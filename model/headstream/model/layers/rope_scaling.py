"""Inverse frequencies of rotary positions, plain and stretched to longer contexts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headstream.model.config import RopeSpec
from headstream.model.errors import UnsupportedModelError


def inverse_frequencies(spec: RopeSpec, dims: int) -> tuple[Tensor, float]:
    """Angle per position of each rotated pair, float32 [dims / 2], and a factor for cos and sin.

    Raises:
        UnsupportedModelError: unknown ``spec.kind``, or a parameter of it is missing.
    """
    match spec.kind:
        case "default":
            return _plain(spec, dims), 1.0
        case "linear":
            return _plain(spec, dims) / _parameter(spec, "factor"), 1.0
        case "llama3":
            return _llama3(spec, dims), 1.0
        case "yarn":
            return _yarn(spec, dims), _yarn_magnitude(spec)
        case _:
            raise UnsupportedModelError(
                f"rope_type {spec.kind!r} is not supported (known: default, linear, llama3, yarn)"
            )


def _parameter(spec: RopeSpec, key: str) -> float:
    value = spec.parameters.get(key)
    if value is None:
        raise UnsupportedModelError(f"rope_type {spec.kind!r} needs the parameter {key!r}")
    return float(value)


def _plain(spec: RopeSpec, dims: int) -> Tensor:
    """Pair i turns by theta ** (-2i / dims) per position (Su et al. 2021, arXiv:2104.09864).

    "linear" divides that by a factor: position interpolation (Chen et al. 2023, arXiv:2306.15595).
    """
    return 1.0 / spec.theta ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)


def _llama3(spec: RopeSpec, dims: int) -> Tensor:
    """Llama 3.1: slow pairs interpolated, fast ones kept, a linear blend between.

    Source: ``apply_scaling`` of Meta's llama-models; Llama 3 report, arXiv:2407.21783.
    """
    low, high = _parameter(spec, "low_freq_factor"), _parameter(spec, "high_freq_factor")
    trained_len = _parameter(spec, "original_max_position_embeddings")
    frequencies = _plain(spec, dims)
    turns = trained_len * frequencies / (2 * math.pi)  # full turns over the trained context
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies * (keep + (1.0 - keep) / _parameter(spec, "factor"))


def _yarn(spec: RopeSpec, dims: int) -> Tensor:
    """YaRN, "NTK by parts" (Peng et al. 2023, arXiv:2309.00071, section 3.2).

    Pairs that turn over ``beta_fast`` times within the trained context are kept, those under
    ``beta_slow`` times interpolated; between, a ramp that is linear in the pair's index.
    """
    fast = float(spec.parameters.get("beta_fast") or 32.0)
    slow = float(spec.parameters.get("beta_slow") or 1.0)
    trained_len = _parameter(spec, "original_max_position_embeddings")

    def pair_with(turns: float) -> float:
        return dims * math.log(trained_len / (turns * 2 * math.pi)) / (2 * math.log(spec.theta))

    start, end = pair_with(fast), pair_with(slow)
    if spec.parameters.get("truncate", True):
        start, end = math.floor(start), math.ceil(end)
    start, end = max(start, 0), min(end, dims - 1)
    ramp = (torch.arange(dims // 2, dtype=torch.float32) - start) / max(end - start, 1e-3)
    interpolate = ramp.clamp(0.0, 1.0)
    frequencies = _plain(spec, dims)
    return frequencies * ((1.0 - interpolate) + interpolate / _parameter(spec, "factor"))


def _yarn_magnitude(spec: RopeSpec) -> float:
    """The attention temperature of YaRN, applied to cos and sin (arXiv:2309.00071, equation 22)."""
    given = spec.parameters.get("attention_factor")
    if given is not None:
        return float(given)
    factor = _parameter(spec, "factor")
    mscale, all_dims = spec.parameters.get("mscale"), spec.parameters.get("mscale_all_dim")
    if mscale and all_dims:  # DeepSeek-V2's refinement, arXiv:2405.04434
        return _log_scale(factor, float(mscale)) / _log_scale(factor, float(all_dims))
    return _log_scale(factor, 1.0)


def _log_scale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0
