"""Linear layers packed once for the processor: x [M, K] -> x W^T + b [M, out]."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from headstream.model.kernels import build, onednn
from headstream.model.kernels.gate import Gate, activation_number, gate_torch
from headstream.model.kernels.int8 import Int8Weight
from headstream.model.kernels.library import Function, check, function, functions, pointer
from headstream.model.kernels.panels import PackPanels, pad_columns
from headstream.model.layers.linear import LinearWeights

Linear = Callable[[Tensor], Tensor]
"""x [M, K] -> [M, out]; owns its weight, packed for the device."""

_ARGUMENTS = "pppppiiii"  # of all products in linear.h

MakeLinear = Callable[[Tensor, Tensor | None], Linear]
"""The device's way of packing weight [out, K] and bias [out]."""

MakeActivated = Callable[[LinearWeights, str], Linear]
"""(weights, activation): x [M, K] -> activation(linear(x)) [M, out]."""

MakeGated = Callable[[LinearWeights, LinearWeights, str], Linear]
"""(gate, up, activation): x [M, K] -> activation(gate(x)) * up(x) [M, f]; both have a bias or
none."""


def make_linear_torch(weight: Tensor, bias: Tensor | None) -> Linear:
    """The twin of the native linear, from what torch has: oneDNN's packed weights or F.linear."""
    if weight.device.type == "cpu" and onednn.works(weight.dtype):
        return onednn.PackedLinear(weight, bias)
    return functools.partial(F.linear, weight=weight, bias=bias)


def make_linear_int8_torch(weight: Tensor, bias: Tensor | None) -> Linear:
    """The twin of the native linear of int8 weights: these in float32, without its speed."""
    widened = Int8Weight.quantize(weight).dequantize()
    linear = make_linear_torch(widened, None if bias is None else bias.float())
    return lambda x: linear(x.float()).to(x.dtype)


def make_activated_torch(weights: LinearWeights, activation: str) -> Linear:
    """The twin of the native activated linear."""
    return compose_activated(weights, activation, make_linear_torch, gate_torch)


def make_activated_int8_torch(weights: LinearWeights, activation: str) -> Linear:
    """The twin of the native activated linear of int8 weights."""
    return compose_activated(weights, activation, make_linear_int8_torch, gate_torch)


def make_gated_torch(gate: LinearWeights, up: LinearWeights, activation: str) -> Linear:
    """The twin of the native gated linear: one product, then the gate."""
    return compose_gated(gate, up, activation, make_linear_torch, gate_torch)


def make_gated_int8_torch(gate: LinearWeights, up: LinearWeights, activation: str) -> Linear:
    """The twin of the native gated linear of int8 weights."""
    return compose_gated(gate, up, activation, make_linear_int8_torch, gate_torch)


def compose_activated(
    weights: LinearWeights, activation: str, make_linear: MakeLinear, kernel: Gate
) -> Linear:
    """An activated linear of two kernels."""
    linear = make_linear(weights.weight, weights.bias)
    return lambda x: kernel(activation, linear(x), False)


def compose_gated(
    gate: LinearWeights, up: LinearWeights, activation: str, make_linear: MakeLinear, kernel: Gate
) -> Linear:
    """A gated linear of two kernels."""
    both = LinearWeights.fuse(gate, up)
    linear = make_linear(both.weight, both.bias)
    return lambda x: kernel(activation, linear(x), True)


class NativeLinear:
    """The compiled linears."""

    def __init__(self, cache_dir: Path, pack: PackPanels, gate: Gate) -> None:
        """``gate``: for products of a shape that the fused kernels do not take.

        ``pack`` decides how weights are stored.

        Raises:
            KernelUnavailableError: they cannot be built here; use the twins.
        """
        library = build.load(f"linear{pack.suffix}", cache_dir)
        self._pack = pack
        self._gate = gate
        self._linear = functions(library, "linear", _ARGUMENTS)
        self._activated = functions(library, "activated", "i" + _ARGUMENTS)
        self._gated = functions(library, "gated", "i" + _ARGUMENTS)
        self._gated_columns = function(library, "gated_columns", "")()

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """A ``MakeLinear``."""
        if not self._takes(weight):
            twin = make_linear_int8_torch if self._pack.int8 else make_linear_torch
            return twin(weight, bias)
        return self._packed(self._linear[weight.dtype], weight, bias, weight.shape[0])

    def activated(self, weights: LinearWeights, activation: str) -> Linear:
        """A ``MakeActivated``."""
        weight = weights.weight
        if not self._takes(weight):
            return compose_activated(weights, activation, self.linear, self._gate)
        kernel = functools.partial(self._activated[weight.dtype], activation_number(activation))
        return self._packed(kernel, weight, weights.bias, weight.shape[0])

    def gated(self, gate: LinearWeights, up: LinearWeights, activation: str) -> Linear:
        """A ``MakeGated``."""
        (columns, depth), dtype = gate.weight.shape, gate.weight.dtype
        half = self._gated_columns // 2
        if half == 0 or columns % half or not self._takes(gate.weight):
            return compose_gated(gate, up, activation, self.linear, self._gate)
        # Halves of a tile side by side: [columns / half, 2, half] rows of W.
        both = LinearWeights.fuse(gate, up)
        weight = both.weight.view(2, -1, half, depth).transpose(0, 1).reshape(-1, depth)
        bias = both.bias
        if bias is not None:
            bias = bias.view(2, -1, half).transpose(0, 1).flatten()
        kernel = functools.partial(self._gated[dtype], activation_number(activation))
        return self._packed(kernel, weight, bias, columns)

    def _takes(self, weight: Tensor) -> bool:
        faster_elsewhere = not self._pack.int8 and onednn.has_amx(weight.dtype)
        return weight.shape[1] % 2 == 0 and not faster_elsewhere

    def _packed(self, kernel: Function, weight: Tensor, bias: Tensor | None, out: int) -> Linear:
        """``kernel`` over the packed weight, as x [M, K] -> [M, out]."""
        columns, depth = weight.shape
        panels = self._pack(weight)
        if bias is not None:
            bias = pad_columns(bias.float())

        def linear(x: Tensor) -> Tensor:
            if x.stride(1) != 1:
                x = x.contiguous()
            y = x.new_empty(x.shape[0], out)
            status = kernel(
                x.data_ptr(),
                panels.numbers.data_ptr(),
                y.data_ptr(),
                pointer(panels.scales),
                pointer(bias),
                x.shape[0],
                x.stride(0),
                depth,
                columns,
            )
            check(status, "linear")
            return y

        return linear
