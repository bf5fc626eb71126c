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

from bench import logits, tables
from bench.contenders.registry import GRPC
from bench.worker import available_cores

RATIOS = "Ours / the other, rounds paired: above 1.00 ours is faster"
GIB = 1 << 30
_PACKAGES = ("headstream", "torch", "transformers", "grpcio")


def describe_run(script: str, arguments: Sequence[str], device: str = "cpu") -> dict[str, Any]:
    """Date, command line, hardware and versions."""
    # Of paths the last part alone: the rest tells of one machine only.
    words = [Path(word).name if Path(word).is_absolute() else word for word in arguments]
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"tests/bench/{script}", *words]),
        "hardware": {
            "cpu": _cpu_model(),
            "gpu": _gpu_model() if device == "cuda" else None,
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
    rounds = tables.count(result["settings"]["rounds"], "round")
    lines = [
        *head(result),
        f"{result['model']['name']}; median (lowest-highest) of {rounds}",
        f"peers that were not run: {', '.join(result['not_run']) or 'none'}",
        "",
    ]
    for run in result["runs"]:
        lines += [*_run(run), ""]
    return "\n".join(lines).rstrip()


def head(result: Mapping[str, Any]) -> Iterator[str]:
    """What it ran on, a line each."""
    hardware, settings = result["hardware"], result["settings"]
    yield f"{result['date']}  {result['command']}"
    if hardware.get("gpu"):
        yield hardware["gpu"]
    yield (
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        f"load before the run: {hardware['load_before']}"
    )
    yield tables.listed(result["versions"])
    yield f"{settings['threads']} threads"


def _run(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"== {run['dtype']} =="
    yield limits(run)
    for name, described in run["peers"].items():
        yield f"{name}: {tables.listed(described)}"
    for workload in run["workloads"]:
        yield from titled(title(workload), tables.rate_rows(workload))
    yield from titled(RATIOS, tables.ratio_rows(run))
    for heading, rows in client_tables(run):
        yield from titled(heading, rows)
    yield from titled("one step of the engine, in its process", tables.step_rows(run))
    yield from titled(checked(run), tables.check_rows(run))
    if run.get("logits"):
        yield from titled(compared(run), tables.compared_rows(run))


def client_tables(run: Mapping[str, Any]) -> Iterator[tuple[str, Iterator[tables.Row]]]:
    """What a gRPC client sees, each table with its heading; only what was measured."""
    if run["rows"]:
        streams = tables.count(run["rows"][0]["streams"], "stream")
        yield f"logits with every token, {GRPC}, {streams}", tables.logits_rows(run)
    if tables.has_latencies(run):
        yield f"what a client waits for, {GRPC}", tables.latency_rows(run)


def titled(heading: str, rows: Iterator[tables.Row]) -> Iterator[str]:
    """A table below its heading."""
    yield ""
    yield heading
    yield from tables.text(rows)


def limits(run: Mapping[str, Any]) -> str:
    """What the machine can do."""
    found = run["limits"]
    return (
        f"Limits: memory read {tables.span(found['read_bytes_per_second'], 1e9)} GB/s, "
        f"packed GEMM {tables.span(found['gemm_flops_per_second'], 1e9)} GFLOP/s"
    )


def title(workload: Mapping[str, Any]) -> str:
    """A workload in full."""
    if workload["kind"] != "decode":
        return tables.label(workload)
    return (
        f"{tables.label(workload)}, {workload['prompt_tokens']} tokens of prompt, "
        f"{workload['new_tokens']} new, prefill included; "
        f"floor of a step {workload['step_floor_seconds'] * 1e3:.2f} ms"
    )


def checked(run: Mapping[str, Any]) -> str:
    """What the checks compare."""
    reported = "16-bit engines may part, which is reported only"
    return "Greedy tokens, position by position" + (
        "" if run["dtype"] == "float32" else f"; {reported}"
    )


def compared(run: Mapping[str, Any]) -> str:
    """What the comparison of logits says."""
    asked = (
        f"ours at most {logits.WITHIN:.0e} apart" if run["dtype"] == logits.EXACT else "reported"
    )
    return (
        f"Rows of logits of the prompts, {asked}; KL divergence of the next token from that of "
        "transformers in float32, mean, nats"
    )


def _gpu_model() -> str:
    import torch

    return torch.cuda.get_device_name()


def _cpu_model() -> str:
    """The processor's own name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()
