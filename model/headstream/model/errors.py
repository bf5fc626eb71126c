"""Everything that can go wrong between a checkpoint and a model.

ModelError
├── SourceError              the source names nothing that can be loaded
├── UnsupportedModelError    the checkpoint asks for something this package does not compute
└── CheckpointError          the checkpoint is damaged, incomplete or not what it says
    ├── MissingTensorError
    ├── TensorShapeError
    ├── DuplicateTensorError
    ├── UnusedTensorError
    └── PickleRefusedError
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class ModelError(Exception):
    """Base of all errors of this package."""


class SourceError(ModelError):
    """The source is no known name, directory, GGUF file or hub id, or cannot be fetched."""


class UnsupportedModelError(ModelError):
    """The model needs a feature that is not implemented; the message names its key."""


class CheckpointError(ModelError):
    """The files of a checkpoint are damaged, incomplete or contradict each other."""


class MissingTensorError(CheckpointError):
    """A tensor the model needs is not in the checkpoint."""

    def __init__(self, name: str) -> None:
        super().__init__(f"tensor {name!r} is missing from the checkpoint")
        self.name = name


class TensorShapeError(CheckpointError):
    """A tensor has another shape than the config says."""

    def __init__(self, name: str, wanted: tuple[int, ...], found: tuple[int, ...]) -> None:
        super().__init__(f"tensor {name!r}: wanted shape {wanted}, found {found}")
        self.name, self.wanted, self.found = name, wanted, found


class DuplicateTensorError(CheckpointError):
    """Two tensors of a checkpoint claim one name, so which one is meant is a guess."""

    def __init__(self, name: str, where: str) -> None:
        super().__init__(f"tensor {name!r} appears twice: {where}")
        self.name = name


class UnusedTensorError(CheckpointError):
    """The checkpoint holds tensors the model has no place for: it is not this model."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(sorted(names))
        shown = ", ".join(self.names[:5]) + (", ..." if len(self.names) > 5 else "")
        super().__init__(f"{len(self.names)} tensors of the checkpoint are not used: {shown}")


class PickleRefusedError(CheckpointError):
    """Only pickled weights are there; they can run code when read, so they are never opened."""

    def __init__(self, directory: Path, files: Iterable[str]) -> None:
        super().__init__(
            f"{directory} holds only pickled weights ({', '.join(sorted(files))}), "
            "which are never read; convert them to safetensors"
        )
