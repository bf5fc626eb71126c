"""Weights in eight bits: integers, and one scale for each output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LARGEST = 127  # -128 is left out: the range is symmetric
_SLICE = 8192  # rows that are widened at once: a vocabulary of them would be a second model


@dataclass(frozen=True, slots=True, eq=False)
class Int8Weight:
    """W [out, K] as numbers * scales: off by at most half a scale anywhere."""

    numbers: Tensor  # int8 [out, K], -127 to 127
    scales: Tensor  # float32 [out], the largest of a row is 127 of them

    @classmethod
    def quantize(cls, weight: Tensor) -> Int8Weight:
        """The nearest of weight [out, K], float32 or bfloat16."""
        numbers = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        scales = torch.empty(weight.shape[0], device=weight.device)
        tiny = torch.finfo(torch.float32).tiny  # a row of zeros
        for begin in range(0, weight.shape[0], _SLICE):
            rows = weight[begin : begin + _SLICE].float()
            scale = (rows.abs().amax(1) / _LARGEST).clamp(min=tiny)
            scales[begin : begin + _SLICE] = scale
            numbers[begin : begin + _SLICE] = (rows / scale[:, None]).round()
        return cls(numbers, scales)

    def dequantize(self) -> Tensor:
        """Float32 [out, K]: the weights that are computed with."""
        return self.numbers.float() * self.scales[:, None]
