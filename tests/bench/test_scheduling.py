"""The benchmark of the scheduler runs from end to end. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "scheduling.py"


def test_every_part_of_a_step_is_timed(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--sequences", "1", "256", "--steps", "3", "--out", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, many = json.loads(out.read_text())
    assert (one["sequences"], many["sequences"]) == (1, 256)
    for costs in (one, many):
        parts = [costs["schedule"], costs["pack"], costs["update_report"]]
        assert min(parts) > 0
        assert costs["total"] == sum(parts)
    *_, line_of_one, line_of_many = done.stdout.splitlines()
    assert "%" not in line_of_one
    assert line_of_many.split()[0] == "256"
    assert line_of_many.endswith("%")
