"""The kernels of a GPU, in Triton: built when first used, by Triton, and cached by it."""

from __future__ import annotations

from headstream.model.kernels import Kernels
from headstream.model.kernels.gate import gate_torch
from headstream.model.kernels.gpu import attend, layer_norm, linear, norm, turn_heads, unembed

GPU_KERNELS = Kernels(
    name="triton",
    linear=linear.linear,
    activated=linear.activated,
    gated=linear.gated,
    rms_norm=norm.rms_norm,
    add=norm.add,
    add_norm=norm.add_norm,
    layer_norm=layer_norm.layer_norm,
    post_norm=layer_norm.post_norm,
    turn_heads=turn_heads.turn_heads,
    gate=gate_torch,
    unembed=unembed.unembed,
    attend=attend.attend,
    attends=attend.supports,
)
