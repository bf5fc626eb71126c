"""Calling compiled kernels: one C function for each dtype, pointers for tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

Function = Callable[..., int]
"""A compiled function; 0 is success, anything else a shape it was not compiled for."""


def functions(library: ctypes.CDLL, name: str, arguments: str) -> Mapping[torch.dtype, Function]:
    """``<name>_float32`` and ``<name>_bfloat16``."""
    return {
        dtype: function(library, f"{name}_{suffix}", arguments)
        for dtype, suffix in DTYPE_NAMES.items()
    }


def function(library: ctypes.CDLL, name: str, arguments: str) -> Function:
    """The function ``name``, with its arguments' types declared.

    ``arguments``: one letter each; p for a pointer, i for an integer, f for a float.
    """
    types = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
    found: Function = getattr(library, name)
    found.argtypes = [types[letter] for letter in arguments]  # type: ignore[attr-defined]
    return found


def pointer(tensor: Tensor | None) -> int | None:
    """Where the tensor's numbers are; a null pointer for None."""
    return None if tensor is None else tensor.data_ptr()


def check(status: int, kernel: str) -> None:
    """Raises AssertionError if a kernel met a shape its ``supports`` should have kept away."""
    if status != 0:
        raise AssertionError(f"{kernel} refused a shape")
