"""Everything that needs a GPU, in one command: the tests of its kernels, then the benchmark.

    python tests/bench/gpu.py --out build/gpu            # or make gpu

The tests are those marked ``gpu`` and those of `test_gpu_kernels.py`; the benchmark is `bench.py`
with engine, service and transformers. It has never been run on a GPU as a whole. Where one of the
two fails the other is still run, and the exit status is 1; without a CUDA device it is 2, at once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What is marked so, and `test_gpu_kernels.py`, which runs interpreted elsewhere.
TESTS = ("-m", "pytest", "tests/model", "-k", "gpu")
BENCH = (
    *("tests/bench/bench.py", "--device", "cuda"),
    *("--contenders", "headstream", "headstream-grpc", "transformers"),
)
NONE_HERE = "error: torch sees no CUDA device here (none, or a torch without CUDA): nothing was run"


def main(arguments: list[str]) -> int:
    """Run both, show what they say and keep it."""
    import torch

    parser = argparse.ArgumentParser(description="The GPU's tests, then its benchmark.")
    parser.add_argument("--out", type=Path, required=True, help="folder of all results")
    options, further = parser.parse_known_args(arguments)  # what is further goes to bench.py
    if not torch.cuda.is_available():
        print(NONE_HERE, file=sys.stderr)
        return 2
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tested = _run(out / "tests.txt", *TESTS, f"--junit-xml={out / 'tests.xml'}")
    results = ("--out", str(out / "result.json"), "--document", str(out))
    measured = _run(out / "bench.txt", *BENCH, *results, *further)
    print(f"tests ended with {tested}, the benchmark with {measured}; all results are in {out}")
    return 1 if tested or measured else 0


def _run(log: Path, *arguments: str) -> int:
    """The exit status of Python with these arguments; what it prints is shown and kept."""
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            kept.write(line)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
