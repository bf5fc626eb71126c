"""The tables of a result, as rows of cells: the first row is the heading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.logits import is_near
from bench.ratios import ratios

Row = Sequence[str]
Run = Mapping[str, Any]
ABSENT = "-"


def label(workload: Mapping[str, Any]) -> str:
    """A workload in few words."""
    if workload["kind"] == "decode":
        return f"decode, {count(workload['streams'], 'stream')}"
    return f"{workload['kind']}, {workload['streams']} x {workload['prompt_tokens']} tokens"


def ratio_rows(run: Run) -> Iterator[Row]:
    """Ours against each engine and against the floor."""
    found = list(ratios(run))
    others = list(dict.fromkeys(name for ratio in found for name in ratio.against))
    yield "workload", "ours", "of the floor", *(f"/ {name}" for name in others)
    for ratio in found:
        against = (ratio.against.get(name) for name in others)
        yield (
            label(ratio.workload),
            ratio.ours,
            f"{ratio.of_floor:.2f}",
            *(ABSENT if each is None else f"{each:.2f}" for each in against),
        )


def rate_rows(workload: Mapping[str, Any]) -> Iterator[Row]:
    """Tokens a second of everyone who answers a workload."""
    yield "", "tokens/s", "of the floor"
    for name, measured in workload["contenders"].items():
        yield name, span(measured["rate"], 1), f"{measured['of_floor']:.2f}"
    yield "floor", f"{workload['floor_rate']:.1f}", "1.00"


def has_latencies(run: Run) -> bool:
    """Whether a client took the times."""
    return any("latency_seconds" in workload for workload in run["workloads"])


def latency_rows(run: Run) -> Iterator[Row]:
    """What a client waits for, through gRPC."""
    yield "streams", "first token p50", "p99", "between tokens p50", "p99"
    for workload in run["workloads"]:
        if waited := workload.get("latency_seconds"):
            times = (waited[what][part] for what in ("first", "between") for part in ("p50", "p99"))
            yield str(workload["streams"]), *(f"{seconds * 1e3:.1f} ms" for seconds in times)


def logits_rows(run: Run) -> Iterator[Row]:
    """Decoding with logits beside each token, through gRPC."""
    yield "logits", "tokens/s", "MB/s of logits"
    for row in run["rows"]:
        yield row["logits"], span(row["rate"], 1), span(row["bytes_per_second"], 1e6)


def step_rows(run: Run) -> Iterator[Row]:
    """Single steps of the engine."""
    yield "sweep", "sequences", "rows N", "context", "ms", "floor ms", "of the floor"
    for step in run["steps"]:
        median, floor = step["seconds"]["median"], step["floor_seconds"]
        yield (
            step["sweep"],
            *(str(step[name]) for name in ("sequences", "tokens", "context")),
            span(step["seconds"], 1e-3, digits=2),
            f"{floor * 1e3:.2f}",
            f"{floor / median:.2f}",
        )


def check_rows(run: Run) -> Iterator[Row]:
    """Whether the answers are right."""
    yield "", "equal", "share", ""
    for check in run["checks"]:
        pair = f"{check['of']} against {check['against']}"
        if "apart" in check:
            apart = f"at most {check['apart']:.2g} apart"
            yield f"{pair}, log-probabilities", apart, ABSENT, "reported"
            continue
        kind = _kind(required=check["required"], met=check["share"] == 1.0)
        yield pair, f"{check['equal']} of {check['tokens']}", f"{check['share']:.1%}", kind


def compared_rows(run: Run) -> Iterator[Row]:
    """How near the logits of ours are to the reference's, and its own in 16 bits."""
    yield "", "positions", "at most apart", "KL divergence", "same first", ""
    for each in run["logits"]:
        yield (
            f"{each['of']} against {each['against']}",
            str(each["positions"]),
            f"{each['apart']:.2g}",
            f"{each['divergence']:.2g}",
            f"{each['same_first']:.1%}",
            _kind(required=each["required"], met=is_near(each)),
        )


def peer_rows(run: Run) -> Iterator[Row]:
    """What the peers say of themselves."""
    yield "peer", "version and settings"
    for name, described in run["peers"].items():
        yield name, listed(described)


def span(spread: Mapping[str, float], unit: float, *, digits: int = 1) -> str:
    """A median and its range, in units of ``unit``."""
    median, low, high = (f"{spread[name] / unit:.{digits}f}" for name in ("median", "low", "high"))
    return median if low == high else f"{median} ({low}-{high})"


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it belongs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(described: Mapping[str, str]) -> str:
    """Names and what they are, in a line."""
    return ", ".join(f"{name} {value}" for name, value in described.items())


def text(rows: Iterator[Row] | Sequence[Row]) -> Iterator[str]:
    """Columns for a terminal, the first one aligned to the left."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


def markdown(rows: Iterator[Row]) -> Iterator[str]:
    """The same for a document."""
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield f"|{' --- |' * len(row)}"


def _kind(*, required: bool, met: bool) -> str:
    """What a comparison counts."""
    if not required:
        return "reported"
    return "required" if met else "WRONG"
