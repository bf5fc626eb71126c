"""Runs a script of this folder as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent


def run_script(script: str, *arguments: str | Path, out: Path) -> tuple[Any, str]:
    """The JSON a script wrote and the text it printed."""
    done = subprocess.run(
        [sys.executable, BENCH / script, *arguments, "--out", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout
