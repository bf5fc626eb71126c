"""Where a model family gets its tensors from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Part(NamedTuple):
    """A stretch of a tensor."""

    axis: int  # 0 or 1
    place: range


class Weights(Protocol):
    """Named tensors of one checkpoint, all in one dtype and on one device.

    Names are relative to the decoder, e.g. ``layers.0.mlp.up_proj.weight``.
    """

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of that name."""
        ...

    def take(self, name: str, shape: tuple[int, ...], part: Part | None = None) -> Tensor:
        """The tensor ``name`` of exactly ``shape``, in the target dtype, on the target device.

        ``part``: only this of it is read.

        Raises:
            MissingTensorError: no tensor has that name.
            TensorShapeError: it has another shape.
            UnsupportedModelError: it is not a plain floating point tensor.
        """
        ...

    def leave(self, prefix: str) -> None:
        """Say that the tensors whose names begin so are known, and not needed."""
        ...
