"""The nonlinearity inside an MLP."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from headstream.model.errors import UnsupportedModelError

Activation = Callable[[Tensor], Tensor]
"""Elementwise: [..., f] -> [..., f]."""


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Activation] = {"gelu": F.gelu, "gelu_tanh": _gelu_tanh, "silu": F.silu}


def activation(name: str) -> Activation:
    """The activation called ``gelu``, ``gelu_tanh`` or ``silu``.

    GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415; SiLU: Elfwing et al. 2017, arXiv:1702.03118.

    Raises:
        UnsupportedModelError: any other name.
    """
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UnsupportedModelError(f"activation {name!r} is not supported (known: {known})")
    return _ACTIVATIONS[name]
