"""The benchmark of looks runs, and sees that nobody's tokens change. No time is judged."""

from __future__ import annotations

from pathlib import Path

from bench.running import run_script
from bench.tiny import save_tiny_model


def test_looking(tmp_path: Path, cache_dir: Path) -> None:
    model = save_tiny_model(tmp_path / "tiny", max_model_len=128)
    result, text = run_script(
        "looking.py",
        *("--model", model, "--dtype", "fp32", "--streams", "3", "--prompt", "16", "--new", "32"),
        *("--rounds", "1", "--threads", "1", "--cache-dir", cache_dir),
        out=tmp_path / "out.json",
    )
    assert result["equal"] == {"ordinary": True, "trace": True, "attention": True}
    assert all(seconds > 0 for [seconds] in result["seconds"].values())
    assert set(result["ratio"]) == {"trace", "attention"}
    assert "attention" in text
