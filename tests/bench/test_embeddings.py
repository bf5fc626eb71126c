"""The benchmark of embeddings runs, counts right, and sees what is wrong. No time is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.embeddings import is_right
from bench.running import run_script


def test_embeddings(tmp_path: Path) -> None:
    """With the real model: the vectors of `sentence-transformers` come by every way."""
    result, text = run_script(
        "embeddings.py",
        *("--dtype", "fp32", "--sentences", "8", "--rounds", "1", "--limit-seconds", "0.01"),
        *(
            "--contenders",
            "engine",
            "EmbedStream",
            "--longest",
            "16",
            "--threads",
            "1",
            "--cache-dir",
            tmp_path,
        ),
        out=tmp_path / "out.json",
    )
    assert 8 * 8 <= result["settings"]["tokens"] <= 8 * 16
    [run] = result["runs"]
    assert list(run["apart"]) == ["engine", "EmbedStream", "sentence-transformers"]
    assert max(run["apart"].values()) <= 1e-5
    assert run["floor_seconds"] > 0
    assert "EmbedStream / engine" in text


@pytest.mark.parametrize(
    ("dtype", "apart", "right"),
    [
        ("float32", 1e-6, True),
        ("float32", 2e-5, False),
        ("bfloat16", 2e-3, True),
    ],
)
def test_wrong_vectors_are_seen(dtype: str, apart: float, *, right: bool) -> None:
    assert is_right({"runs": [{"dtype": dtype, "apart": {"engine": 0.0, "Embed": apart}}]}) is right
