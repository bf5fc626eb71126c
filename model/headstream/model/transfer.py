"""Between the CPU and a device: many small tensors in one copy through pinned memory.

A copy of its own for each would cost some ten microseconds each, more than a layer computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

_ALIGN = 16  # bytes


def upload(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The same tensors on ``device``, behind the work that was given to it before."""
    sizes = [-(-tensor.nbytes // _ALIGN) * _ALIGN for tensor in tensors]
    ends = list(accumulate(sizes))
    host = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, end, size in zip(tensors, ends, sizes, strict=True):
        _view(host, end - size, tensor).copy_(tensor)
    there = host.to(device, non_blocking=True)
    return [
        _view(there, end - size, tensor)
        for tensor, end, size in zip(tensors, ends, sizes, strict=True)
    ]


def download(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors on the CPU; waits for them."""
    flat = torch.cat([tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors])
    host = torch.empty(flat.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(flat)
    ends = accumulate(tensor.nbytes for tensor in tensors)
    return [
        _view(host, end - tensor.nbytes, tensor) for tensor, end in zip(tensors, ends, strict=True)
    ]


def _view(memory: Tensor, begin: int, like: Tensor) -> Tensor:
    """Part of ``memory``, uint8, as a tensor of the dtype and shape of ``like``."""
    return memory[begin : begin + like.nbytes].view(like.dtype).view(like.shape)
