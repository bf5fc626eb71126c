"""Loads damaged models one after the other, as a server does, with bounded memory.

``python mutant_loader.py ORIGINALS SCRATCH SEED FIRST END`` prints two lines of JSON for each
number from FIRST to END: what it is about to load, and what came of it. ``ORIGINALS`` are the
directories that mutants are made of, with commas between.
"""

from __future__ import annotations

import faulthandler
import json
import resource
import sys
from pathlib import Path
from typing import Any

from file_mutants import mutate
from headstream.model.errors import ModelError
from headstream.server.engine.build import build
from headstream.server.engine.config import EngineConfig
from headstream.server.errors import EngineStartError
from headstream.server.tokenizer import TextTokenizer

SPARE_BYTES = 1 << 30
"""Address space beyond what the process has when it begins."""
HANG_SECONDS = 60
TEXT = "The chicken didn't cross the road; naïve cafés, 日本語."
CHAT = [("user", "Why?"), ("assistant", "To get to the other side.")]


def load(directory: Path, cache_dir: Path) -> None:
    """What a server does with a model before it says that it is ready, and a first text."""
    config = EngineConfig(
        name="mutant",
        source=str(directory),
        cache_dir=str(cache_dir),
        dtype="float32",
        num_threads=1,
        kv_cache_bytes=4 << 20,
        max_num_batched_tokens=512,
        max_num_seqs=4,
    )
    _, _, ready = build(config, lambda *_: None)
    tokenizer = TextTokenizer.from_directory(Path(ready.directory))
    tokenizer.surfaces.list(ready.d_vocab)
    tokenizer.decode(tokenizer.encode(TEXT).ids)


def status(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    [line] = [line for line in text.splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def outcome(directory: Path, cache_dir: Path) -> dict[str, Any]:
    """How the load ended."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
    before = status("VmRSS")
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    try:
        load(directory, cache_dir)
        end = {"end": "loaded", "error": ""}
    except (ModelError, EngineStartError) as error:
        end = {"end": "refused", "error": str(error)}
    except BaseException as error:  # panics of Rust too
        end = {"end": "fault", "error": f"{type(error).__name__}: {error}"}
    faulthandler.cancel_dump_traceback_later()
    return end | {"grown": status("VmHWM") - before}


def main() -> None:
    originals = [Path(name) for name in sys.argv[1].split(",")]
    scratch, seed = Path(sys.argv[2]), int(sys.argv[3])
    cache_dir = scratch / "cache"
    for original in originals:
        load(original, cache_dir)
    limit = status("VmSize") + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(int(sys.argv[4]), int(sys.argv[5])):
        original = originals[number % len(originals)]
        file, how = mutate(original, scratch / "mutant", seed, number)
        size = sum(path.stat().st_size for path in (scratch / "mutant").rglob("*"))
        about = {"number": number, "model": original.name, "file": file, "how": how, "size": size}
        _tell(about)
        _tell(outcome(scratch / "mutant", cache_dir))


def _tell(news: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
