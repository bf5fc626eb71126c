"""The nonlinearity of an MLP: the native kernel and its torch twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from headstream.model.kernels import build
from headstream.model.kernels.library import check, functions


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # arXiv:1606.08415
    "gelu_tanh": _gelu_tanh,
    "silu": F.silu,  # arXiv:1702.03118
}


def activation_number(name: str) -> int:
    """How activation.h counts ``name``."""
    return list(ACTIVATIONS).index(name)


Gate = Callable[[str, Tensor, bool], Tensor]
"""(activation, x, gated): x [M, f] -> f(x) [M, f], or gated, x [M, 2 f] -> f(x[:, :f]) * x[:, f:].

An element's bits depend on that element alone."""

_STEP = 64  # torch's CPU loops advance by two vectors: 64 bfloat16 or 32 float32 with AVX-512
_GRAIN = 32768  # elements a thread gets at least, outside the gelu kernels


def gate_torch(name: str, x: Tensor, gated: bool) -> Tensor:
    """The plain twin of the native kernel."""
    if not gated:
        return _activate(name, x)
    first, second = x.chunk(2, dim=-1)  # [M, f] each
    return _activate(name, first) * second


def load_native(cache_dir: Path) -> Gate:
    """The compiled kernel.

    Raises:
        KernelUnavailableError: it cannot be built here; use :func:`gate_torch`.
    """
    compiled = functions(build.load("gate", cache_dir), "gate", "ipiiip")

    def gate(name: str, x: Tensor, gated: bool) -> Tensor:
        x = x.contiguous()
        rows, width = x.shape
        width = width // 2 if gated else width
        out = x.new_empty(rows, width)
        status = compiled[x.dtype](
            activation_number(name), x.data_ptr(), rows, width, gated, out.data_ptr()
        )
        check(status, "gate")
        return out

    return gate


def _activate(name: str, x: Tensor) -> Tensor:
    """On CPU torch computes the end of each thread's share with another exponential than the rest.

    So the last bits of a row would depend on how many rows are beside it. Here every share is made
    a whole number of vector steps.
    """
    function = ACTIVATIONS[name]
    if x.device.type != "cpu":
        return function(x)
    size = x.numel()
    padded = x.new_empty(_whole_steps(size, torch.get_num_threads()))
    padded[:size].view(x.shape).copy_(x)
    return function(padded)[:size].view(x.shape)


def _whole_steps(size: int, threads: int) -> int:
    """The least size from ``size`` on that torch splits into shares of whole steps.

    The gelu kernels split evenly over all threads, the others over as many as get a grain each.
    """
    share = 0
    while share != (share := math.lcm(threads, _sharers(size, threads)) * _STEP):
        size = -(-size // share) * share
    return size


def _sharers(size: int, threads: int) -> int:
    return max(1, min(threads, -(-size // _GRAIN)))
