"""Report, charts and document of a result known by heart: the numbers are where they belong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from bench import charts, document, harness, report
from bench.ratios import ratios


def measured(*seconds: float, tokens: int, floor: float) -> dict[str, Any]:
    rates = sorted(tokens / each for each in seconds)
    return {
        "seconds": list(seconds),
        "rate": {"median": rates[len(rates) // 2], "low": rates[0], "high": rates[-1]},
        "of_floor": floor / sorted(seconds)[len(seconds) // 2],
    }


def decode(streams: int, **seconds: tuple[float, ...]) -> dict[str, Any]:
    tokens, floor = 100 * streams, 0.5
    return {
        "kind": "decode",
        "streams": streams,
        "prompt_tokens": 64,
        "new_tokens": 100,
        "tokens": tokens,
        "floor_seconds": floor,
        "floor_rate": tokens / floor,
        "step_floor_seconds": 0.005,
        "latency_seconds": {
            "first": {"p50": 0.125, "p99": 0.25},
            "between": {"p50": 0.0125, "p99": 0.03125},
        },
        "contenders": {
            name: measured(*each, tokens=tokens, floor=floor) for name, each in seconds.items()
        },
    }


def step(sweep: str, sequences: int, tokens: int, context: int) -> dict[str, Any]:
    return {
        "sweep": sweep,
        "sequences": sequences,
        "tokens": tokens,
        "context": context,
        "floor_seconds": 0.004,
        "seconds": {"median": 0.008, "low": 0.007, "high": 0.009},
    }


@pytest.fixture
def result() -> dict[str, Any]:
    """One machine, one dtype, two rounds of which the second was twice as slow for everybody."""
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "command": "python tests/bench/bench.py --peers peers",
        "hardware": {"cpu": "Some CPU", "cores": 2, "memory_gib": 4.0, "load_before": 0.0},
        "versions": {"python": "3.11.0", "torch": "2.13.0"},
        "model": {"name": "some-model", "architecture": "SomeForCausalLM", "sizes": {}},
        "settings": {"rounds": 2, "threads": 2, "prompt": 64, "new": 100},
        "not_run": ["vllm", "ctranslate2"],
        "runs": [
            {
                "dtype": "bfloat16",
                "limits": {
                    "read_bytes_per_second": {"median": 40e9, "low": 39e9, "high": 41e9},
                    "gemm_flops_per_second": {"median": 8e11, "low": 8e11, "high": 8e11},
                },
                "peers": {"openvino": {"openvino-genai": "1.2.3", "arithmetic": "bf16"}},
                "workloads": [
                    decode(1, headstream=(1.0, 2.0), openvino=(1.5, 3.0)),
                    decode(8, headstream=(1.0, 2.0), openvino=(0.8, 1.6)),
                ],
                "rows": [],
                "steps": [
                    *(step("context", n, n, context) for n in (1, 8) for context in (64, 1024)),
                    *(step("decode rows", n, n, 64) for n in (1, 8)),
                    *(step("prompt rows", 1, n, n) for n in (1, 8)),
                ],
                "checks": [
                    {
                        "of": "openvino",
                        "against": "transformers",
                        "tokens": 200,
                        "equal": 150,
                        "share": 0.75,
                        "required": False,
                    }
                ],
                "logits": [
                    {
                        "of": name,
                        "against": "transformers in float32",
                        "required": False,
                        "positions": 252,
                        "apart": 0.25,
                        "divergence": divergence,
                        "same_first": 0.975,
                    }
                    for name, divergence in (("headstream", 0.002), ("transformers", 0.0032))
                ],
            }
        ],
    }


def test_ratios_pair_the_rounds(result: dict[str, Any]) -> None:
    """What a round did to both it does not do to their ratio."""
    one, eight = ratios(result["runs"][0])
    assert (one.ours, one.against) == ("headstream", {"openvino": 1.5})
    assert eight.against == {"openvino": pytest.approx(0.8)}


def test_report_has_the_ratios(result: dict[str, Any]) -> None:
    lines = [line.split() for line in report.render(result).splitlines()]
    assert ["decode,", "1", "stream", "headstream", "0.25", "1.50"] in lines
    assert ["decode,", "8", "streams", "headstream", "0.25", "0.80"] in lines


def test_document_says_what_ran_and_how_it_came_out(result: dict[str, Any], tmp_path: Path) -> None:
    document.write(result, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    for said in (
        "Some CPU, 2 cores, 4.0 GiB",
        "torch 2.13.0",
        "`python tests/bench/bench.py --peers peers`",
        "2026-01-02T03:04:05+00:00",
        "not run: vllm, ctranslate2.",
        "| openvino | openvino-genai 1.2.3, arithmetic bf16 |",
        "| decode, 1 stream | headstream | 0.25 | 1.50 |",
        "| 8 | 125.0 ms | 250.0 ms | 12.5 ms | 31.2 ms |",
        "| context | 8 | 8 | 1024 | 8.00 (7.00-9.00) | 4.00 | 0.50 |",
        "| openvino against transformers | 150 of 200 | 75.0% | reported |",
        "| headstream against transformers in float32 | 252 | 0.25 | 0.002 | 97.5% | reported |",
        "| transformers against transformers in float32 | 252 | 0.25 | 0.0032 | 97.5% | reported |",
    ):
        assert said in text
    again = tmp_path / "again"
    document.write(json.loads((tmp_path / "performance" / "result.json").read_text()), again)
    assert (again / "performance.md").read_text() == text


def test_logits_beyond_the_limit_are_wrong(result: dict[str, Any], tmp_path: Path) -> None:
    """They are told in the report and the document, and by the exit status."""
    compared = result["runs"][0]["logits"][0] | {"required": True}
    for apart, right in ((1e-4, True), (1.1e-4, False), (float("nan"), False)):
        result["runs"][0]["logits"] = [compared | {"apart": apart}]
        assert harness.is_right(result) is right
        document.write(result, tmp_path)
        for text in (report.render(result), (tmp_path / "performance.md").read_text()):
            assert ("WRONG" in text) is not right


def test_a_result_from_before_logits_were_compared_is_shown(result: dict[str, Any]) -> None:
    del result["runs"][0]["logits"]
    assert harness.is_right(result)
    assert "KL divergence" not in report.render(result)


def test_every_chart_the_document_shows_is_drawn(result: dict[str, Any], tmp_path: Path) -> None:
    document.write(result, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert len(document.CAPTIONS) == len(charts.CHARTS)
    for name in document.CAPTIONS:
        assert f"(performance/{name})" in text
        picture = matplotlib.image.imread(tmp_path / "performance" / name)
        assert picture.std() > 0.01  # not a blank sheet


def test_charts_without_figures_are_left_out(result: dict[str, Any], tmp_path: Path) -> None:
    bare = copy.deepcopy(result)
    for workload in bare["runs"][0]["workloads"]:
        del workload["latency_seconds"]
    bare["runs"][0]["steps"] = []
    assert charts.draw(bare, tmp_path) == ["throughput.png"]


def test_charts_tell_the_contenders_apart() -> None:
    colours = [colour for colour, _ in charts.STYLES.values()]
    markers = [marker for _, marker in charts.STYLES.values()]
    assert len(set(colours)) == len(set(markers)) == len(charts.STYLES)
