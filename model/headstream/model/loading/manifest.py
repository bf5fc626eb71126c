"""Lists of sha256 sums, in the format of ``sha256sum``: made of a checkpoint, and checked."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from headstream.model.errors import CheckpointError
from headstream.model.loading.progress import Progress

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")

# Weights, configs, tokenizers, templates: what is read of a directory.
_KINDS = {".safetensors", ".json", ".model", ".txt", ".jinja"}


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in lower-case hex.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def make_manifest(directory: Path) -> str:
    """The lines for all files that could be read."""
    return "".join(f"{sha256_of(directory / name)}  {name}\n" for name in _readable(directory))


def verify_manifest(directory: Path, manifest: Path, progress: Progress) -> None:
    """Check every file the manifest lists; every file that could be read must be listed.

    Raises:
        CheckpointError: the manifest cannot be read; a malformed line, a name outside the
            directory, a file that is missing, differs, or is not listed.
    """
    sums = _read(manifest)
    own = manifest.resolve()
    found = [name for name in _readable(directory) if (directory / name).resolve() != own]
    if unlisted := [name for name in found if name not in sums]:
        raise CheckpointError(f"{manifest} does not list {', '.join(unlisted)}")
    for done, (name, expected) in enumerate(sums.items()):
        progress("verifying", done, len(sums))
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{manifest} lists {name!r}, which is not there")
        actual = sha256_of(path)
        if actual != expected:
            raise CheckpointError(f"{path}: sha256 is {actual}, the manifest says {expected}")
    progress("verifying", len(sums), len(sums))


def _readable(directory: Path) -> list[str]:
    """Names of files that could be read, those in folders too, in order; hidden ones are not."""
    names = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return sorted(
        name.as_posix()
        for name in names
        if name.suffix in _KINDS and not any(part.startswith(".") for part in name.parts)
    )


def _read(manifest: Path) -> dict[str, str]:
    try:
        lines = manifest.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"manifest {manifest} cannot be read: {error}") from None
    sums: dict[str, str] = {}
    for line in lines:
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise CheckpointError(f"{manifest}: not a sha256 line: {line!r}")
        digest, name = match[1].lower(), match[2]
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.as_posix() != name:
            raise CheckpointError(f"{manifest}: {name!r} is not a file within the directory")
        if name in sums:
            raise CheckpointError(f"{manifest} lists {name!r} twice")
        sums[name] = digest
    return sums
