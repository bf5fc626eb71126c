"""Attention weights and scores with a key for each position, however many the engine sent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headstream.model.outputs import WireDtype
from headstream.server.engine.stream import WireTensor

_STORAGE: dict[WireDtype, str] = {"float32": "<f4", "bfloat16": "<u2", "float16": "<f2"}
_MINUS_INFINITY: dict[WireDtype, float] = {
    "float32": -np.inf,
    "bfloat16": 0xFF80,  # its bits
    "float16": -np.inf,
}


def to_array(tensor: WireTensor) -> NDArray[np.generic]:
    """The elements as numpy stores them; of bfloat16 their bits."""
    return np.frombuffer(tensor.data, _STORAGE[tensor.dtype]).reshape(tensor.shape)


def take_rows(tensor: WireTensor, first: int, last: int) -> WireTensor:
    """The rows [first, last) of a tensor [rows, ..]."""
    size = len(tensor.data) // max(1, tensor.shape[0])
    data = tensor.data[first * size : last * size]
    return WireTensor(tensor.dtype, (last - first, *tensor.shape[1:]), data)


def fit_keys(tensor: WireTensor, num_keys: int, *, scores: bool) -> WireTensor:
    """The tensor [.., keys] with ``num_keys`` keys.

    A row is computed when the keys up to it are there, not those behind it; so what is missing, or
    is too much, was not seen. Such keys have the weight 0, or the score -infinity.
    """
    *rows, given = tensor.shape
    if given == num_keys:
        return tensor
    values = to_array(tensor)[..., :num_keys]
    fill = _MINUS_INFINITY[tensor.dtype] if scores else 0
    fitted = np.full((*rows, num_keys), fill, values.dtype)
    fitted[..., : values.shape[-1]] = values
    return WireTensor(tensor.dtype, fitted.shape, fitted.tobytes())
