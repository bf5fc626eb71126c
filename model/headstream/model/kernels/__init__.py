"""What the layers compute with: native kernels, or their torch twins.

The native ones are compiled for the processor at hand at first use, cached, and optional: without a
compiler everything works, slower. A GPU has kernels of its own (``kernels.gpu``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from headstream.model.attention.base import AttentionSpec
from headstream.model.kernels import attend, gate, layer_norm, linear, norm, turn_heads, unembed
from headstream.model.kernels.attend import AttendKernel
from headstream.model.kernels.build import KernelUnavailableError
from headstream.model.kernels.gate import Gate
from headstream.model.kernels.layer_norm import LayerNorm, NativeLayerNorm, PostNorm
from headstream.model.kernels.linear import (
    Linear,
    MakeActivated,
    MakeGated,
    MakeLinear,
    NativeLinear,
)
from headstream.model.kernels.look_up import LookUp, look_up_rows
from headstream.model.kernels.norm import Add, AddNorm, NativeNorm, RmsNorm
from headstream.model.kernels.panels import PackPanels
from headstream.model.kernels.turn_heads import TurnHeads
from headstream.model.kernels.unembed import MakeUnembed, NativeUnembed
from headstream.model.layers.linear import LinearWeights

Quantization = Literal["none", "int8"]
"""How the weights of linears and of the unembedding are stored."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernels:
    """One implementation of every kernel."""

    name: str  # native | torch | triton
    linear: MakeLinear
    activated: MakeActivated
    gated: MakeGated
    rms_norm: RmsNorm
    add: Add
    add_norm: AddNorm
    layer_norm: LayerNorm
    post_norm: PostNorm
    turn_heads: TurnHeads
    gate: Gate
    unembed: MakeUnembed
    attend: AttendKernel | None  # None: attention of torch
    attends: Callable[[AttentionSpec, int], bool]  # whether ``attend`` takes blocks of that size
    look_up: LookUp = look_up_rows
    add_shares: Linear | None = None  # y [M, out], a rank's part of a sum -> the sum; None: it is

    def closing(self, weights: LinearWeights) -> Linear:
        """The linear that ends a half of a layer, where the shares of the ranks are added up."""
        linear, add_shares = self.linear(weights.weight, weights.bias), self.add_shares
        return linear if add_shares is None else lambda x: add_shares(linear(x))


def _attends_none(*_: object) -> bool:
    return False


TORCH_KERNELS = Kernels(
    name="torch",
    linear=linear.make_linear_torch,
    activated=linear.make_activated_torch,
    gated=linear.make_gated_torch,
    rms_norm=norm.rms_norm_torch,
    add=norm.add_torch,
    add_norm=norm.add_norm_torch,
    layer_norm=layer_norm.layer_norm_torch,
    post_norm=layer_norm.post_norm_torch,
    turn_heads=turn_heads.turn_heads_torch,
    gate=gate.gate_torch,
    unembed=unembed.make_unembed_torch,
    attend=None,
    attends=_attends_none,
)


TORCH_INT8_KERNELS = replace(
    TORCH_KERNELS,
    linear=linear.make_linear_int8_torch,
    activated=linear.make_activated_int8_torch,
    gated=linear.make_gated_int8_torch,
    unembed=unembed.make_unembed_int8_torch,
)


def load_gpu_kernels() -> Kernels:
    """The kernels of a GPU."""
    from headstream.model.kernels.gpu import GPU_KERNELS  # noqa: PLC0415 - needs Triton

    return GPU_KERNELS


def choose_kernels(device: torch.device, cache_dir: Path, *, quantization: Quantization) -> Kernels:
    """Those of the device, compiled under ``cache_dir`` if need be."""
    if device.type == "cuda":
        return load_gpu_kernels()
    return load_kernels(cache_dir / "kernels", quantization)


def load_kernels(cache_dir: Path, quantization: Quantization = "none") -> Kernels:
    """The native kernels, compiled into ``cache_dir``, or their torch twins."""
    int8 = quantization == "int8"
    try:
        native_gate = gate.load_native(cache_dir)
        pack = PackPanels(cache_dir, int8=int8)
        linears, norms = NativeLinear(cache_dir, pack, native_gate), NativeNorm(cache_dir)
        layer_norms = NativeLayerNorm(cache_dir)
        return Kernels(
            name="native",
            linear=linears.linear,
            activated=linears.activated,
            gated=linears.gated,
            rms_norm=norms.rms_norm,
            add=norms.add,
            add_norm=norms.add_norm,
            layer_norm=layer_norms.layer_norm,
            post_norm=layer_norms.post_norm,
            turn_heads=turn_heads.load_native(cache_dir),
            gate=native_gate,
            unembed=NativeUnembed(cache_dir, pack),
            attend=attend.load_native(cache_dir),
            attends=attend.supports,
        )
    except KernelUnavailableError as error:
        _log.warning("the slower torch twins of the native kernels run: %s", error)
        return TORCH_INT8_KERNELS if int8 else TORCH_KERNELS
