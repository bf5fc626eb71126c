"""The command for a GPU: what it takes in, and that it ends at once where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import NONE_HERE, ROOT, TESTS
from bench.running import BENCH


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_runs(tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = subprocess.run(
        [sys.executable, BENCH / "gpu.py", "--out", out],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", NONE_HERE + "\n")
    assert not out.exists()


def test_the_tests_of_a_gpu_are_chosen() -> None:
    """Those of every kernel in the GPU's form, those of the GPU alone, and no other form."""
    done = subprocess.run(
        [sys.executable, *TESTS, "--collect-only", "-q"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    found = [line for line in done.stdout.splitlines() if "::" in line]
    own = [line for line in found if line.startswith("tests/model/test_gpu_kernels.py")]
    forms = [line for line in found if line not in own]
    assert own
    assert {line.partition("::")[0] for line in forms} >= {
        f"tests/model/test_{name}.py" for name in ("attention", "linear", "norm", "unembed")
    }
    assert all("triton" in line for line in forms)
