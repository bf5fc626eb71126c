"""Checking files against a list of sha256 sums, in the format of ``sha256sum``."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from headstream.model.errors import CheckpointError
from headstream.model.loading.progress import Progress

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_manifest(directory: Path, manifest: Path, progress: Progress) -> None:
    """Check every file the manifest lists; every safetensors file must be listed.

    Raises:
        CheckpointError: a malformed line, a name outside the directory, a file that is missing,
            differs, or is not listed.
    """
    sums = _read(manifest)
    unlisted = {path.name for path in directory.glob("*.safetensors")} - sums.keys()
    if unlisted:
        raise CheckpointError(f"{manifest} does not list {', '.join(sorted(unlisted))}")
    for done, (name, expected) in enumerate(sums.items()):
        progress("verifying", done, len(sums))
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{manifest} lists {name!r}, which is not there")
        found = sha256_of(path)
        if found != expected:
            raise CheckpointError(f"{path}: sha256 is {found}, the manifest says {expected}")
    progress("verifying", len(sums), len(sums))


def _read(manifest: Path) -> dict[str, str]:
    sums: dict[str, str] = {}
    for line in manifest.read_text("utf-8").splitlines():
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise CheckpointError(f"{manifest}: not a sha256 line: {line!r}")
        digest, name = match[1].lower(), match[2]
        if Path(name).name != name:
            raise CheckpointError(f"{manifest}: {name!r} is not a plain file name")
        if name in sums:
            raise CheckpointError(f"{manifest} lists {name!r} twice")
        sums[name] = digest
    return sums
