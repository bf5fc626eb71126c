"""The nonlinearity inside an MLP."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from headstream.model.errors import UnsupportedModelError


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": F.silu,
}

_STEP = 64  # torch's CPU loops advance by two vectors: 64 bfloat16 or 32 float32 with AVX-512
_GRAIN = 32768  # elements a thread gets at least, outside the gelu kernels


class Activation:
    """Elementwise, x [N, f] -> [N, f]; an element's bits depend on that element alone.

    On CPU torch computes the end of each thread's share with another exponential than the rest, so
    the last bits of a row would depend on how many rows are beside it. Here every share is made a
    whole number of vector steps.
    """

    def __init__(self, name: str) -> None:
        """Name one of ``gelu`` (arXiv:1606.08415), ``gelu_tanh`` and ``silu`` (arXiv:1702.03118).

        Raises:
            UnsupportedModelError: any other name.
        """
        if name not in _FUNCTIONS:
            known = ", ".join(_FUNCTIONS)
            raise UnsupportedModelError(f"activation {name!r} is not supported (known: {known})")
        self._function = _FUNCTIONS[name]

    def __call__(self, x: Tensor) -> Tensor:
        """Activate every element; x may be strided."""
        if x.device.type != "cpu":
            return self._function(x)
        size = x.numel()
        padded = x.new_empty(_whole_steps(size, torch.get_num_threads()))
        padded[:size].view(x.shape).copy_(x)
        return self._function(padded)[:size].view(x.shape)


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
