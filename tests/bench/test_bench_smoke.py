"""The benchmarks run from end to end on a tiny model and count right. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.checks import check_tokens, is_right
from bench.data import cut_prompts
from bench.limits import Machine, ModelSizes, decode_floor, prefill_floor, step_floor
from bench.plan import QUICK, Workload
from bench.tiny import save_tiny_model

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


def test_bench(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "tiny", max_model_len=512)
    result, text = run_script(
        "bench.py",
        *("--quick", "--model", model, "--cache-dir", tmp_path / "cache", "--threads", "1"),
        out=tmp_path / "out.json",
    )
    assert str(tmp_path) not in json.dumps(result) + text
    [run] = result["runs"]
    assert [(w["kind"], w["streams"], w["tokens"]) for w in run["workloads"]] == [
        ("decode", 1, 8),
        ("decode", 8, 64),
        ("prefill", 4, 256),
    ]
    for workload in run["workloads"]:
        assert list(workload["contenders"]) == list(QUICK.contenders)
        assert workload["floor_seconds"] > 0
        for measured in workload["contenders"].values():
            assert len(measured["seconds"]) == QUICK.rounds
    assert [(row["logits"], row["tokens"], row["bytes"]) for row in run["rows"]] == [
        ("none", 64, 0),
        ("top", 64, 64 * 10 * 4),
        ("full", 64, 64 * 512 * 4),
    ]
    assert [check["share"] for check in run["checks"]] == [1.0] * 5
    for name in QUICK.contenders:
        assert f"\n{name}  " in text


def test_rows(tmp_path: Path) -> None:
    result, text = run_script(
        "rows.py",
        *("--model", "tiny", "--dtype", "fp32", "--rows", "1024"),
        *("--cache-dir", tmp_path, "--threads", "1"),
        out=tmp_path / "out.json",
    )
    assert [(step["sequences"], step["tokens"]) for step in result["steps"]] == [
        (1, 1024),
        (4, 256),
    ]
    for step in result["steps"]:
        assert step["peak_bytes"] >= step["loaded_bytes"] > 0
        assert len(step["step_seconds"]) == 2
    assert "4 x 256" in text


def test_a_contender_that_fails_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCH / "bench.py", "--quick", "--model", tmp_path / "none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: bench.limits:Limits has ended")


def test_prompts_have_the_length_asked_and_differ() -> None:
    prompts = cut_prompts(list(range(10, 1000)), count=32, length=64, bos_id=2)
    assert {len(prompt) for prompt in prompts} == {64}
    assert {prompt[0] for prompt in prompts} == {2}
    assert len({prompt[1] for prompt in prompts}) == 32


def test_prompt_longer_than_the_text() -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        cut_prompts([1, 2, 3], count=1, length=5, bos_id=None)


def test_floors() -> None:
    """By hand: 100 weights of 4 bytes, 10 KV elements a position in two layers, one windowed."""
    sizes = ModelSizes(80, 20, kv_width=10, windows=(None, 3), item_bytes=4)
    slow_memory = Machine(read_bytes=4.0, gemm_flops=1e9)
    slow_compute = Machine(read_bytes=1e9, gemm_flops=2.0)
    assert step_floor(slow_memory, sizes, streams=2, context=5) == 100 + 2 * 10 * (5 + 3)
    assert step_floor(slow_compute, sizes, streams=2, context=5) == 2 * 100
    assert prefill_floor(slow_memory, sizes, prompts=2, length=7) == 100
    assert prefill_floor(slow_compute, sizes, prompts=2, length=7) == 2 * (7 * 80 + 20)
    assert decode_floor(slow_compute, sizes, streams=2, length=7, new=3) == 1160 + 2 * 200


@pytest.mark.parametrize(("exact", "right"), [(True, False), (False, True)])
def test_different_tokens_are_wrong_where_they_must_be_equal(*, exact: bool, right: bool) -> None:
    workloads = [Workload("decode", [[5, 6]], new=2)]
    tokens = {"headstream": [[[7, 8]]], "transformers": [[[7, 9]]]}
    checks = check_tokens(tokens, workloads, exact=exact)
    assert [(check["equal"], check["tokens"]) for check in checks] == [(1, 2)]
    assert is_right(checks) is right


def test_engines_of_ours_must_agree_in_any_dtype() -> None:
    workloads = [Workload("decode", [[5, 6]], new=1)]
    tokens = {"headstream": [[[7]]], "headstream-grpc": [[[8]]]}
    assert not is_right(check_tokens(tokens, workloads, exact=False))
