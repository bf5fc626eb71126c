"""Directories that are built once and then only read."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock  # comes with huggingface_hub

_STAMP = "headstream.json"


def build_once(target: Path, stamp: Mapping[str, str], build: Callable[[Path], None]) -> Path:
    """Return ``target``, built by ``build`` unless its stamp says it already was.

    ``build`` fills a temporary directory beside ``target``, which is renamed at the end: nobody
    ever sees half of it. Processes that start together wait for the first one.
    """
    if _is_built(target, stamp):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if _is_built(target, stamp):
            return target
        prefix = f".{target.name}.building-"
        for abandoned in target.parent.glob(f"{prefix}*"):  # the lock is ours: nobody builds there
            shutil.rmtree(abandoned)
        building = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            build(building)
            building.chmod(0o755)  # mkdtemp makes it private; readers may be other users
            (building / _STAMP).write_text(json.dumps(dict(stamp), indent=2) + "\n", "utf-8")
            if target.exists():  # an older converter's
                shutil.rmtree(target)
            building.rename(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target


def _is_built(target: Path, stamp: Mapping[str, str]) -> bool:
    try:
        found: object = json.loads((target / _STAMP).read_bytes())
    except (OSError, ValueError):
        return False
    return found == dict(stamp)
