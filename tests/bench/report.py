"""The result for people: what it ran on, and the tables."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench.worker import available_cores

Row = Sequence[str]
GIB = 1 << 30
_PACKAGES = ("headstream", "torch", "transformers", "grpcio")


def describe_run(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Date, command line, hardware and versions."""
    # Of paths the last part alone: the rest tells of one machine only.
    words = [Path(word).name if Path(word).is_absolute() else word for word in arguments]
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"tests/bench/{script}", *words]),
        "hardware": {
            "cpu": _cpu_model(),
            "cores": available_cores(),
            "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
    }


def emit(result: Mapping[str, Any], text: str, out: Path | None) -> None:
    """The JSON to a file and the text to stdout; without a file, JSON to stdout, text to stderr."""
    document = json.dumps(result, indent=1)
    if out is None:
        print(text, file=sys.stderr)
        print(document)
    else:
        print(text)
        out.write_text(document + "\n", encoding="utf-8")


def render(result: Mapping[str, Any]) -> str:
    """The whole result as text."""
    architecture, settings = result["model"]["architecture"], result["settings"]
    lines = [
        *head(result),
        f"{architecture}; median (lowest-highest) of {_count(settings['rounds'], 'round')}",
        "",
    ]
    for run in result["runs"]:
        lines += [*_run(run), ""]
    return "\n".join(lines).rstrip()


def head(result: Mapping[str, Any]) -> Iterator[str]:
    """What it ran on, a line each."""
    hardware, settings = result["hardware"], result["settings"]
    yield f"{result['date']}  {result['command']}"
    yield (
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        f"load before the run: {hardware['load_before']}"
    )
    yield ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    yield f"{settings['threads']} threads"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Rows in columns; the first row is the heading, the first column is aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


def _run(run: Mapping[str, Any]) -> Iterator[str]:
    limits = run["limits"]
    yield f"== {run['dtype']} =="
    yield (
        f"limits: memory read {_range(limits['read_bytes_per_second'], 1e9)} GB/s, "
        f"packed GEMM {_range(limits['gemm_flops_per_second'], 1e9)} GFLOP/s"
    )
    for workload in run["workloads"]:
        yield ""
        yield _title(workload)
        yield from table(list(_workload_rows(workload)))
    if run["rows"]:
        first = run["rows"][0]
        yield ""
        yield f"logits with every token, headstream-grpc, {_count(first['streams'], 'stream')}"
        yield from table(list(_logits_rows(run["rows"])))
    yield ""
    yield "greedy tokens, position by position" + (
        "" if run["dtype"] == "float32" else "; 16-bit engines may part, which is reported only"
    )
    yield from table(list(_check_rows(run["checks"])))


def _title(workload: Mapping[str, Any]) -> str:
    length = workload["prompt_tokens"]
    if workload["kind"] == "prefill":
        return f"prefill: {_count(workload['streams'], 'prompt')} of {length} tokens"
    return (
        f"decode: {_count(workload['streams'], 'stream')}, {length} tokens of prompt, "
        f"{workload['new_tokens']} new, prefill included; "
        f"floor of a step {workload['step_floor_seconds'] * 1e3:.2f} ms"
    )


def _workload_rows(workload: Mapping[str, Any]) -> Iterator[Row]:
    yield "", "tokens/s", "of the floor"
    for name, measured in workload["contenders"].items():
        yield name, _range(measured["rate"], 1), f"{measured['of_floor']:.2f}"
    yield "floor", f"{workload['floor_rate']:.1f}", "1.00"


def _logits_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    yield "", "tokens/s", "MB/s of logits"
    for row in rows:
        yield row["logits"], _range(row["rate"], 1), _range(row["bytes_per_second"], 1e6)


def _check_rows(checks: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    yield "", "equal", "share", ""
    for check in checks:
        wrong = check["required"] and check["share"] < 1.0
        kind = "WRONG" if wrong else "required" if check["required"] else "reported"
        equal = f"{check['equal']} of {check['tokens']}"
        yield f"{check['of']} against {check['against']}", equal, f"{check['share']:.1%}", kind


def _range(spread: Mapping[str, float], unit: float) -> str:
    median, low, high = (spread[name] / unit for name in ("median", "low", "high"))
    return f"{median:.1f}" if low == high else f"{median:.1f} ({low:.1f}-{high:.1f})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _cpu_model() -> str:
    """The processor's own name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()
