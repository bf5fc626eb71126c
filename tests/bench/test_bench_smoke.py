"""The benchmarks run from end to end on a tiny model and count right. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.checks import check, is_right
from bench.contenders.registry import CONTENDERS, PEERS
from bench.data import cut_prompts
from bench.harness import find_homes
from bench.home import Home
from bench.limits import (
    Machine,
    ModelSizes,
    decode_floor,
    prefill_floor,
    score_floor,
    step_floor,
)
from bench.logits import COMPARED_PROMPTS, WITHIN
from bench.plan import QUICK, Workload
from bench.running import BENCH, run_script
from bench.steps import DECODE_CONTEXT
from bench.tiny import save_tiny_model
from bench.worker import Reply, Worker, WorkerError


def test_bench(tmp_path: Path, cache_dir: Path) -> None:
    model = save_tiny_model(tmp_path / "tiny", max_model_len=512)
    result, text = run_script(
        "bench.py",
        *("--quick", "--model", model, "--cache-dir", cache_dir, "--threads", "1"),
        *("--document", tmp_path / "docs"),
        out=tmp_path / "out.json",
    )
    document = (tmp_path / "docs" / "performance.md").read_text()
    assert str(tmp_path) not in json.dumps(result) + text + document
    assert result["not_run"] == list(PEERS)
    [run] = result["runs"]
    assert [(w["kind"], w["streams"], w["tokens"]) for w in run["workloads"]] == [
        ("decode", 1, 8),
        ("decode", 8, 64),
        ("prefill", 4, 256),
        ("score", 4, 256),
    ]
    present = [name for name in QUICK.contenders if name not in PEERS]
    for workload in run["workloads"]:
        assert list(workload["contenders"]) == present
        assert workload["floor_seconds"] > 0
        for measured in workload["contenders"].values():
            assert len(measured["seconds"]) == QUICK.rounds
        if workload["kind"] == "decode":
            waited = workload["latency_seconds"]
            assert 0 < waited["first"]["p50"] <= waited["first"]["p99"]
            assert 0 < waited["between"]["p50"] <= waited["between"]["p99"]
    assert [(row["logits"], row["tokens"], row["bytes"]) for row in run["rows"]] == [
        ("none", 64, 0),
        ("top", 64, 64 * 10 * 4),
        ("full", 64, 64 * 512 * 4),
    ]
    assert [(s["sweep"], s["sequences"], s["tokens"], s["context"]) for s in run["steps"]] == [
        *(("context", n, n, context) for n in (1, 8) for context in (64, 256)),
        *(("decode rows", n, n, DECODE_CONTEXT) for n in (1, 8)),
        *(("prompt rows", 1, n, n) for n in (1, 8)),
    ]
    assert all(step["seconds"]["low"] > 0 for step in run["steps"])
    assert [check["share"] for check in run["checks"] if "share" in check] == [1.0] * 5
    apart = {check["of"]: check["apart"] for check in run["checks"] if "apart" in check}
    assert list(apart) == ["headstream", "headstream-grpc"]
    assert max(apart.values()) < 1e-4
    assert [each["of"] for each in run["logits"]] == ["headstream", "headstream-grpc"]
    for each in run["logits"]:
        assert each["required"]
        assert each["positions"] == COMPARED_PROMPTS * (QUICK.prompt - 1)
        assert 0 < each["apart"] < WITHIN
        assert each["same_first"] == 1.0
    for name in present:
        assert f"\n{name}  " in text
        assert f"\n| {name} |" in document


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


def test_transport(tmp_path: Path) -> None:
    result, text = run_script(
        "transport.py",
        *("--streams", "2", "--rows", "3", "--rounds", "1", "--threads", "1"),
        *("--cache-dir", tmp_path / "cache"),
        out=tmp_path / "out.json",
    )
    for name in ("raw", "served"):
        assert result["received_bytes"][name] == 2 * 3 * (1 << 20)
        assert result["megabytes_per_second"][name]["median"] > 0
    assert "served / raw" in text


def test_perplexity(tmp_path: Path, cache_dir: Path) -> None:
    """On a text of several windows both engines give the same number."""
    model = save_tiny_model(tmp_path / "tiny", max_model_len=256)
    text = tmp_path / "text.txt"
    text.write_text("The chicken didn't cross the road, naïve as it was. " * 40)
    result, printed = run_script(
        "perplexity.py",
        *("--model", model, "--text", text, "--bytes", "1500", "--window", "128", "--stride", "50"),
        *("--rounds", "1", "--threads", "1", "--cache-dir", cache_dir),
        out=tmp_path / "out.json",
    )
    assert str(tmp_path) not in json.dumps(result) + printed
    assert 1490 < result["settings"]["text_bytes"] <= 1500
    assert result["tokens_scored"] == result["tokens"] - 1 > 3 * 128
    assert result["tokens_read"] > result["tokens"]
    assert result["logprobs_apart"] < 1e-4
    values = list(result["perplexity"].values())
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert result["ratio"]["median"] > 0
    assert f"{values[0]:.6f}" in printed


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
    assert score_floor(slow_memory, sizes, prompts=2, length=7) == 100
    assert score_floor(slow_compute, sizes, prompts=2, length=7) == 2 * 7 * (80 + 20)
    assert decode_floor(slow_compute, sizes, streams=2, length=7, new=3) == 1160 + 2 * 200


@pytest.mark.parametrize(("exact", "right"), [(True, False), (False, True)])
def test_different_tokens_are_wrong_where_they_must_be_equal(*, exact: bool, right: bool) -> None:
    workloads = [Workload("decode", [[5, 6]], new=2)]
    tokens = {"headstream": [[[7, 8]]], "transformers": [[[7, 9]]]}
    checks = check(tokens, workloads, exact=exact)
    assert [(each["equal"], each["tokens"]) for each in checks] == [(1, 2)]
    assert is_right(checks) is right


def test_engines_of_ours_must_agree_in_any_dtype() -> None:
    workloads = [Workload("decode", [[5, 6]], new=1)]
    tokens = {"headstream": [[[7]]], "headstream-grpc": [[[8]]]}
    assert not is_right(check(tokens, workloads, exact=False))


def test_peers_that_depart_are_told_and_are_no_error() -> None:
    workloads = [Workload("decode", [[5, 6]], new=2), Workload("score", [[5, 6, 7]], new=0)]
    answers: dict[str, list[Any]] = {
        "openvino": [[[7, 9]], None],  # it cannot score
        "llama.cpp": [None, None],  # nor does this one tell its tokens
        "vllm": [[[7, 8]], [[-1.0, -2.25]]],
        "transformers": [[[7, 8]], [[-1.5, -2.0]]],
    }
    checks = check(answers, workloads, exact=True)
    assert [(each["of"], each.get("share"), each.get("apart")) for each in checks] == [
        ("openvino", 0.5, None),
        ("vllm", 1.0, None),
        ("vllm", None, 0.5),
    ]
    assert is_right(checks)


class Told:
    """A worker that returns what it was made with."""

    def __init__(self, result: object) -> None:
        self._result = result

    def call(self, *_: object, **__: object) -> Reply:
        return Reply(self._result, 1.0)


@pytest.mark.parametrize(
    ("kind", "new", "result", "right"),
    [
        ("decode", 2, [[7, 8], [7, 8]], True),
        ("decode", 2, [[7, 8], [7]], False),
        ("decode", 2, [], False),  # transformers' own batching has returned nothing, silently
        ("decode", 2, None, True),
        ("score", 0, [[-1.0, -1.0], [-1.0, -1.0]], True),
        ("score", 0, [[-1.0, -1.0], [-1.0]], False),
    ],
)
def test_answers_are_counted(kind: Any, new: int, result: object, *, right: bool) -> None:
    workload = Workload(kind, [[1, 2, 3], [4, 5, 6]], new)
    worker: Any = Told(result)
    if right:
        assert workload.run(worker).result == result
    else:
        with pytest.raises(RuntimeError, match="came back"):
            workload.run(worker)


def test_a_peer_runs_in_its_own_environment(tmp_path: Path) -> None:
    """Its interpreter and its libraries, nothing of ours; what it measured itself is believed."""
    home = Home(tmp_path / "llama.cpp")
    home.make_venv()
    assert Home(home.folder).model is None
    program = home.folder / "build" / "bin" / "llama-batched-bench"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"#!{home.python}\n"
        "import json, sys\n"
        "if '--version' in sys.argv: sys.exit()\n"
        "sizes = {n: int(sys.argv[sys.argv.index('-n' + n) + 1]) for n in ('pl', 'pp', 'tg')}\n"
        "print('log'), print(json.dumps(sizes | {'t_pp': 0.25, 't_tg': 1.0}))\n"
    )
    program.chmod(0o755)
    home.finish("model")
    assert Home(home.folder).model == "model"
    settings = {"home": str(home.folder), "dtype": "float32", "threads": 1, "directory": "model"}
    with Worker(
        CONTENDERS["llama.cpp"].target,
        settings,
        1,
        python=home.python,
        environment=home.environment,
    ) as worker:
        assert worker.call("describe").result["tokens"] == "not chosen"
        assert worker.call("decode", prompts=[[1, 2], [3, 4]], new=3) == Reply(None, 1.25)
        assert worker.call("prefill", prompts=[[1, 2], [3, 4]]) == Reply(None, 0.25)


def test_peers_need_nothing_of_ours() -> None:
    """Their environments lack our packages: with the standard library alone they are imported."""
    modules = [CONTENDERS[name].target.partition(":")[0] for name in PEERS]
    code = f"import sys; sys.path.insert(0, {str(BENCH.parent)!r}); import {', '.join(modules)}"
    for more, right in (("", True), (", numpy", False)):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code + more], capture_output=True, check=False
        )
        assert (done.returncode == 0) is right


def test_only_peers_installed_for_this_model_run(tmp_path: Path) -> None:
    assert find_homes(None, "model") == find_homes(tmp_path, "model") == {}
    home = Home(tmp_path / "vllm")
    home.folder.mkdir()
    home.finish("model")
    assert find_homes(tmp_path, "model") == {"vllm": home}
    with pytest.raises(WorkerError, match="vllm is installed for another model"):
        find_homes(tmp_path, "other")
