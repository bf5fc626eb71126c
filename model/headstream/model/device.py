"""The machine below: device and dtype."""

from __future__ import annotations

import torch

from headstream.model.errors import ModelError
from headstream.model.kernels.onednn import bf16_is_fast


def choose_device(name: str) -> torch.device:
    """The device called "cpu" or "cuda".

    Raises:
        ModelError: no such device here.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("device cuda was asked for, but torch sees no CUDA device")
    return torch.device(name)


def check_ranks(count: int, device: torch.device) -> None:
    """Raises ModelError: each of ``count`` ranks has a GPU of its own, and there are too few."""
    if device.type == "cuda" and count > torch.cuda.device_count():
        raise ModelError(
            f"tensor_parallel is {count}, but torch sees {torch.cuda.device_count()} CUDA devices"
        )


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype called "float32", "bfloat16" or "auto": bfloat16 where the hardware has it."""
    if name == "auto":
        fast = device.type == "cuda" or bf16_is_fast()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def check_quantization(name: str, device: torch.device) -> None:
    """Raises ModelError: "int8" on CUDA, where no kernel reads such weights."""
    if name == "int8" and device.type == "cuda":
        raise ModelError("quantization int8 is not served on cuda: only the CPU kernels read it")
