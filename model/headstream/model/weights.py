"""Where a model family gets its tensors from."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Weights(Protocol):
    """Named tensors of one checkpoint, all in one dtype and on one device.

    Names are relative to the decoder, e.g. ``layers.0.mlp.up_proj.weight``.
    """

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of that name."""
        ...

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor ``name`` of exactly ``shape``, in the target dtype, on the target device.

        Raises:
            MissingTensorError: no tensor has that name.
            TensorShapeError: it has another shape.
            UnsupportedModelError: it is not a plain floating point tensor.
        """
        ...

    def leave(self, prefix: str) -> None:
        """Say that the tensors whose names begin so are known, and not needed."""
        ...
