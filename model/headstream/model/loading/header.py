"""The JSON header of a safetensors file, read by us because the library accepts doubled names.

Format: 8 bytes little-endian header length, the header, then the tensors' bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from headstream.model.errors import CheckpointError, DuplicateTensorError

_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000  # the library's own limit


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What the header says of one tensor."""

    dtype: str  # the format's own word: F32, BF16, ...
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors a safetensors file declares, by name.

    Offsets are left to the library, which checks them when the file is opened.

    Raises:
        DuplicateTensorError: the header names a tensor twice.
        CheckpointError: the file cannot be read or is truncated, or its header is no valid header.
    """

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
            raise DuplicateTensorError(twice, f"in the header of {path.name}")
        return entries

    try:
        header: object = json.loads(_header_bytes(path), object_pairs_hook=refuse_duplicates)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is not a JSON object")
    declared = cast("dict[str, Any]", header)
    return {
        name: _entry(path, name, value)
        for name, value in declared.items()
        if name != "__metadata__"
    }


def _header_bytes(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MAX_HEADER):
            raise CheckpointError(f"{path}: truncated, or not a safetensors file")
        return file.read(length)


def _entry(path: Path, name: str, value: Any) -> TensorEntry:
    try:
        return TensorEntry(str(value["dtype"]), tuple(int(size) for size in value["shape"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the header entry of {name!r} is damaged") from error
