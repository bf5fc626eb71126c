"""Which weights a model has: their digest and their number."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import torch

from headstream.model.loading.header import read_header
from headstream.model.loading.manifest import sha256_of
from headstream.model.loading.progress import Progress

_DIGESTS = "weights-sha256.json"


def weights_sha256(directory: Path, cache_dir: Path, progress: Progress) -> str:
    """SHA-256 over the checkpoint's weight files, in the order of their names.

    Digests are remembered under ``cache_dir`` by path, size and time of change, since reading
    every byte again would double the time of a start.
    """
    cache = cache_dir / _DIGESTS
    known: dict[str, str] = json.loads(cache.read_text()) if cache.is_file() else {}
    total = hashlib.sha256()
    files = sorted(directory.glob("*.safetensors"))
    for done, path in enumerate(files):
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in known:
            progress("hashing", done, len(files))
            known[key] = sha256_of(path)
        total.update(known[key].encode())
    cache_dir.mkdir(parents=True, exist_ok=True)
    # Under a name of its own: two engines of one server start side by side.
    with tempfile.NamedTemporaryFile("w", dir=cache_dir, delete=False) as scratch:
        json.dump(known, scratch)
    Path(scratch.name).replace(cache)
    return total.hexdigest()


def count_parameters(directory: Path) -> int:
    """Elements of all tensors in the checkpoint."""
    return sum(
        torch.Size(entry.shape).numel()
        for path in directory.glob("*.safetensors")
        for entry in read_header(path).values()
    )
