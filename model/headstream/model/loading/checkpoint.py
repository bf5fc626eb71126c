"""A directory of safetensors files as one set of named tensors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headstream.model.errors import (
    CheckpointError,
    DuplicateTensorError,
    MissingTensorError,
    PickleRefusedError,
    TensorShapeError,
    UnsupportedModelError,
    UnusedTensorError,
)
from headstream.model.loading.header import TensorEntry, read_header
from headstream.model.loading.progress import Progress, silent
from headstream.model.weights import Part

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_FLOATS = ("F64", "F32", "F16", "BF16")

# Where the layers hang in the checkpoint depends on who saved it; the longest prefix counts.
_PREFIXES = (
    "distilbert.transformer.",
    "distilbert.",
    "roberta.",
    "bert.",
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.",
    "transformer.",
)

# Constants that older savers stored beside the weights.
_HARMLESS = re.compile(r".*\brotary_emb\.inv_freq|h\.\d+\.attn\.(masked_)?bias")

CPU = torch.device("cpu")


class _Stored(NamedTuple):
    file: str
    name: str  # with its prefix
    entry: TensorEntry


class Checkpoint:
    """Tensors by name, read when taken, memory-mapped until then. Satisfies ``Weights``."""

    def __init__(
        self,
        directory: Path,
        dtype: torch.dtype,
        progress: Progress = silent,
        device: torch.device = CPU,
    ) -> None:
        """Open the files and check their headers; no tensor is read yet.

        Raises:
            PickleRefusedError: the directory holds pickled weights only.
            DuplicateTensorError: one name twice, in a file or over several.
            CheckpointError: no weights, a damaged file, or an index that is wrong.
        """
        self._dtype, self._device, self._progress = dtype, device, progress
        self._files: dict[str, Any] = {}  # file name -> handle, whose methods have no types
        self._found: dict[str, _Stored] = {}
        self._taken: set[str] = set()
        for path in _weight_files(directory):
            self._add(path)

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of that name."""
        return name in self._found

    def take(self, name: str, shape: tuple[int, ...], part: Part | None = None) -> Tensor:
        """See ``Weights.take``."""
        if name not in self._found:
            raise MissingTensorError(name)
        stored = self._found[name]
        if stored.entry.shape != shape:
            raise TensorShapeError(name, shape, stored.entry.shape)
        if stored.entry.dtype not in _FLOATS:
            raise UnsupportedModelError(f"tensor {name!r} is stored as {stored.entry.dtype}")
        file = self._files[stored.file]
        tensor: Tensor = (
            file.get_tensor(stored.name)
            if part is None
            else _read(file.get_slice(stored.name), part)
        )
        self._taken.add(name)
        self._progress("weights", len(self._taken), len(self._found))
        return tensor.to(self._device, self._dtype)

    def leave(self, prefix: str) -> None:
        """See ``Weights.leave``."""
        self._taken.update(name for name in self._found if name.startswith(prefix))

    def check_all_used(self) -> None:
        """Call when the model is built: what it did not take, it does not know.

        Raises:
            UnusedTensorError: a tensor was left that is no known harmless constant.
        """
        left = self._found.keys() - self._taken
        unknown = [name for name in left if not _HARMLESS.fullmatch(name)]
        if unknown:
            raise UnusedTensorError(unknown)

    def _add(self, path: Path) -> None:
        entries = read_header(path)
        try:
            self._files[path.name] = safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: {error}") from error
        for stored, entry in entries.items():
            name = _strip_prefix(stored)
            if name in self._found:
                where = f"in {self._found[name].file} and in {path.name}"
                raise DuplicateTensorError(name, where)
            self._found[name] = _Stored(path.name, stored, entry)


def _read(stored: Any, part: Part) -> Tensor:
    """A part of a tensor that is not in memory."""
    place = slice(part.place.start, part.place.stop)
    tensor: Tensor = stored[place] if part.axis == 0 else stored[:, place]
    return tensor


def _strip_prefix(stored: str) -> str:
    for prefix in _PREFIXES:
        if stored.startswith(prefix):
            return stored.removeprefix(prefix)
    return stored


def _weight_files(directory: Path) -> list[Path]:
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    if (directory / _INDEX).is_file():
        return _shards(directory)
    pickles = [path.name for pattern in _PICKLES for path in directory.glob(pattern)]
    if pickles:
        raise PickleRefusedError(directory, pickles)
    raise CheckpointError(f"{directory} holds neither {_SINGLE} nor {_INDEX}")


def _shards(directory: Path) -> list[Path]:
    """The files the index names. It was downloaded like the rest: it may not point elsewhere."""
    index = directory / _INDEX
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of shards") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise CheckpointError(f"{index}: shard {name!r} is not a plain file name")
        if not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: shard {name!r} is not a safetensors file")
        if not (directory / name).is_file():
            raise CheckpointError(f"{index} names {name!r}, which is not there")
    return [directory / name for name in sorted(names)]
