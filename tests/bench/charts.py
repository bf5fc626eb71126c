"""The charts of a result: one panel for each dtype, the hardware in the title."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from bench import tables
from bench.contenders.registry import CONTENDERS
from bench.steps import DECODE_CONTEXT

Result = Mapping[str, Any]
Run = Mapping[str, Any]

# Okabe and Ito's colours, told apart by everyone; ours are the two that stand out, and thicker.
STYLES = dict(
    zip(
        CONTENDERS,
        (
            ("#D55E00", "o"),
            ("#F0E442", "X"),
            ("#E69F00", "s"),
            ("#0072B2", "^"),
            ("#009E73", "v"),
            ("#CC79A7", "D"),
            ("#56B4E9", "P"),
            ("#7F7F7F", "*"),
        ),
        strict=True,
    )
)
OURS_WIDTH, WIDTH = 2.4, 1.4
FLOOR_LINE = "--"
INCHES = (6.0, 4.6)  # of a panel
DOTS_PER_INCH = 110
PLAIN = StrMethodFormatter("{x:g}")


def draw(result: Result, folder: Path) -> list[str]:
    """Write every chart that the result has figures for; the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for name, (title, has, panel) in CHARTS.items():
        runs = [run for run in result["runs"] if has(run)]
        if not runs:
            continue
        figure = Figure(figsize=(INCHES[0] * len(runs), INCHES[1]), layout="constrained")
        figure.suptitle(f"{title}: {result['model']['name']}\n{place(result)}", fontsize=11)
        panels: Sequence[Axes] = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
        for axes, run in zip(panels, runs, strict=True):
            axes.set_title(run["dtype"], fontsize=10)
            panel(axes, run)
            axes.grid(visible=True, which="major", alpha=0.3)
            axes.legend(fontsize=8)
        figure.savefig(folder / f"{name}.png", dpi=DOTS_PER_INCH)
        names.append(f"{name}.png")
    return names


def place(result: Result) -> str:
    """The hardware in a line."""
    hardware = result["hardware"]
    return f"{hardware['cpu']}, {hardware['cores']} cores, {result['settings']['threads']} threads"


def _throughput(axes: Axes, run: Run) -> None:
    decodes = [w for w in run["workloads"] if w["kind"] == "decode"]
    streams = [workload["streams"] for workload in decodes]
    floor = [workload["floor_rate"] for workload in decodes]
    axes.plot(streams, floor, color="black", linestyle=FLOOR_LINE, label="floor")
    for name in decodes[0]["contenders"]:
        colour, marker = STYLES[name]
        rates = [workload["contenders"][name]["rate"] for workload in decodes]
        median = [rate["median"] for rate in rates]
        reach = [
            [rate["median"] - rate["low"] for rate in rates],
            [rate["high"] - rate["median"] for rate in rates],
        ]
        width = OURS_WIDTH if name.startswith("headstream") else WIDTH
        axes.errorbar(
            streams,
            median,
            reach,
            color=colour,
            marker=marker,
            linewidth=width,
            capsize=2,
            label=name,
        )
    _powers(axes, streams, "concurrent streams")
    _doublings(axes, "new tokens per second, prefill included")


def _latency(axes: Axes, run: Run) -> None:
    waited = [
        (workload["streams"], workload["latency_seconds"])
        for workload in run["workloads"]
        if "latency_seconds" in workload
    ]
    streams = [number for number, _ in waited]
    for what, label, colour in (
        ("between", "between tokens", "#0072B2"),
        ("first", "first token, all prompts sent at once", "#D55E00"),
    ):
        for part, line, marker in (("p50", "-", "o"), ("p99", ":", "^")):
            axes.plot(
                streams,
                [seconds[what][part] * 1e3 for _, seconds in waited],
                color=colour,
                linestyle=line,
                marker=marker,
                label=f"{label}, {part}",
            )
    _powers(axes, streams, "concurrent streams")
    _doublings(axes, "milliseconds")


def _step_contexts(axes: Axes, run: Run) -> None:
    steps = [step for step in run["steps"] if step["sweep"] == "context"]
    for crowd, colour in zip(sorted({s["sequences"] for s in steps}), _COLOURS, strict=False):
        mine = [step for step in steps if step["sequences"] == crowd]
        plural = "sequence" if crowd == 1 else "sequences"
        _steps(axes, mine, "context", f"{crowd} {plural}", colour)
    _powers(axes, [step["context"] for step in steps], "context of each sequence (keys)")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("milliseconds")


def _step_rows(axes: Axes, run: Run) -> None:
    kinds = {
        "decode rows": f"N sequences, one row each, {DECODE_CONTEXT} keys",
        "prompt rows": "one prompt of N tokens",
    }
    for (sweep, label), colour in zip(kinds.items(), _COLOURS, strict=False):
        mine = [step for step in run["steps"] if step["sweep"] == sweep]
        _steps(axes, mine, "tokens", label, colour)
        _powers(axes, [step["tokens"] for step in mine], "rows in the step (N)")
    _doublings(axes, "milliseconds")


def _steps(axes: Axes, steps: Sequence[Mapping[str, Any]], x: str, label: str, colour: str) -> None:
    """Measured steps, and below them their floor in the same colour."""
    numbers = [step[x] for step in steps]
    times = [step["seconds"]["median"] * 1e3 for step in steps]
    floors = [step["floor_seconds"] * 1e3 for step in steps]
    axes.plot(numbers, times, color=colour, marker="o", label=label)
    axes.plot(numbers, floors, color=colour, linestyle=FLOOR_LINE, label=f"{label}: floor")


def _powers(axes: Axes, numbers: Sequence[int], label: str) -> None:
    """An axis of powers of two."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(numbers)))
    axes.xaxis.set_major_formatter(PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def _doublings(axes: Axes, label: str) -> None:
    """An upright axis on which equal ratios are equally far apart."""
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(PLAIN)
    axes.set_ylabel(label)


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")

CHARTS: Mapping[str, tuple[str, Callable[[Run], bool], Callable[[Axes, Run], None]]] = {
    "throughput": (
        "Decoding, tokens per second",
        lambda run: any(w["kind"] == "decode" for w in run["workloads"]),
        _throughput,
    ),
    "latency": (
        "What a client waits for (gRPC)",
        tables.has_latencies,
        _latency,
    ),
    "step-contexts": ("One step against context", lambda run: bool(run["steps"]), _step_contexts),
    "step-rows": ("One step against its rows", lambda run: bool(run["steps"]), _step_rows),
}
