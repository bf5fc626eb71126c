"""A linear layer's stored parameters, before the device packs them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headstream.model.weights import Weights


@dataclass(frozen=True, slots=True, eq=False)
class LinearWeights:
    """Parameters of y = x W^T + b."""

    weight: Tensor  # [out, in]
    bias: Tensor | None  # [out]

    @classmethod
    def take(
        cls, weights: Weights, name: str, out: int, width: int, *, bias: bool
    ) -> LinearWeights:
        """Read ``name.weight`` [out, width] and, if the model has it, ``name.bias`` [out].

        Raises:
            CheckpointError: a tensor is missing or misshapen.
        """
        return cls(
            weights.take(f"{name}.weight", (out, width)),
            weights.take(f"{name}.bias", (out,)) if bias else None,
        )

    @classmethod
    def fuse(cls, *parts: LinearWeights) -> LinearWeights:
        """Stack layers with one input, so that one product computes them all.

        Either every part has a bias or none. Returns weight [sum of outs, in].
        """
        biases = [part.bias for part in parts if part.bias is not None]
        return cls(
            torch.cat([part.weight for part in parts]),
            torch.cat(biases) if biases else None,
        )

    def split(self, first: int) -> tuple[LinearWeights, LinearWeights]:
        """The layers of the ``first`` outputs and of the others: what :meth:`fuse` undoes."""
        biases = (None, None) if self.bias is None else (self.bias[:first], self.bias[first:])
        return (
            LinearWeights(self.weight[:first], biases[0]),
            LinearWeights(self.weight[first:], biases[1]),
        )
