"""The parameters of norms, in float32 whatever the weights' dtype."""

from __future__ import annotations

from headstream.model.config import ModelConfig
from headstream.model.kernels.layer_norm import Affine
from headstream.model.kernels.norm import Gain
from headstream.model.weights import Weights


def rms_gain(
    config: ModelConfig, weights: Weights, name: str, width: int, *, plus_one: bool = False
) -> Gain:
    """The gain of an RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467), from ``name.weight``.

    With ``plus_one`` the gain is 1 + w, as Gemma stores it (arXiv:2403.08295).

    Raises:
        CheckpointError: the tensor is missing or misshapen.
    """
    values = weights.take(f"{name}.weight", (width,)).float()
    return Gain(values + 1.0 if plus_one else values, config.norm_eps)


def layer_norm_affine(config: ModelConfig, weights: Weights, name: str) -> Affine:
    """Gain and bias of a LayerNorm of d numbers, from ``name.weight`` and ``name.bias``.

    Early checkpoints call them gamma and beta.

    Raises:
        CheckpointError: a tensor is missing or misshapen.
    """
    early = weights.has(f"{name}.gamma")
    gain, bias = (f"{name}.{part}" for part in (("gamma", "beta") if early else ("weight", "bias")))
    shape = (config.d_model,)
    return Affine(
        weights.take(gain, shape).float(),
        weights.take(bias, shape).float() if config.norm_bias else None,
        config.norm_eps,
    )
