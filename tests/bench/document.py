"""The result as a document: ``performance.md``, its charts, and the result they were made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import charts, report, tables

Result = Mapping[str, Any]
FOLDER = "performance"

CAPTIONS = {
    "throughput.png": "New tokens per second of all streams together, prefill included; bars show "
    "the slowest and the fastest round.",
    "latency.png": "Time to the first token and between tokens as a gRPC client on the same cores "
    "sees them. All prompts are sent at once, so a first token waits for the prompts before it.",
    "step-contexts.png": "One step of the engine in its own process, one row for each sequence.",
    "step-rows.png": "One step against the rows packed into it. N sequences unembed N rows; one "
    "prompt unembeds its last row only.",
}


def write(result: Result, folder: Path) -> None:
    """Write ``performance.md`` into a folder, and charts and result into one below it."""
    below = folder / FOLDER
    names = charts.draw(result, below)
    (below / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(render(result, names)) + "\n"
    (folder / "performance.md").write_text(text, encoding="utf-8")


def render(result: Result, pictures: Sequence[str]) -> Iterator[str]:
    """The document, line by line."""
    settings = result["settings"]
    yield "# Performance"
    yield ""
    yield "Written by `tests/bench/bench.py`; do not edit. How to run it again stands in"
    yield "[tests/bench/README.md](../tests/bench/README.md)."
    yield ""
    yield from _place(result)
    yield ""
    yield (
        f"Every engine runs in a process of its own with {settings['threads']} threads, on the "
        f"same weights and prompts; the engines take turns within each of "
        f"{tables.count(settings['rounds'], 'round')}. Prompts to continue have "
        f"{settings['prompt']} tokens and get {settings['new']} new ones, greedy, end of text "
        "ignored, prefill included in the rate. Tokens are counted, and compared with those of "
        "`transformers` in the same run. The floor is the time that bytes over the memory "
        "bandwidth, or multiply-adds over the rate of packed matrix products, take at least, the "
        "highest rates measured between the rounds; attention, norms and sampling count as free."
    )
    yield ""
    yield f"Peers that were not run: {', '.join(result['not_run']) or 'none'}."
    for name in pictures:
        yield ""
        yield f"![{Path(name).stem}]({FOLDER}/{name})"
        yield ""
        yield CAPTIONS[name]
    for run in result["runs"]:
        yield ""
        yield from _run(run)


def _place(result: Result) -> Iterator[str]:
    hardware = result["hardware"]
    yield f"- Model: {result['model']['name']} ({result['model']['architecture']})"
    yield (
        f"- Hardware: {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        f"load before the run {hardware['load_before']}"
    )
    yield f"- Versions: {tables.listed(result['versions'])}"
    yield f"- Command: `{result['command']}`"
    yield f"- Date: {result['date']}"


def _run(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {run['dtype']}"
    yield ""
    yield f"{report.limits(run)}."
    if run["peers"]:
        yield from _table("Peers", tables.peer_rows(run))
    yield from _table("Ratios", tables.ratio_rows(run), f"{report.RATIOS}.")
    for workload in run["workloads"]:
        yield from _table(tables.label(workload).capitalize(), tables.rate_rows(workload))
    for heading, rows in report.client_tables(run):
        yield from _table(heading.capitalize(), rows)
    yield from _table("One step of the engine", tables.step_rows(run))
    yield from _table("Answers compared", tables.check_rows(run), f"{report.checked(run)}.")
    if run.get("logits"):
        said = f"{report.compared(run)}."
        yield from _table("Logits compared", tables.compared_rows(run), said)


def _table(heading: str, rows: Iterator[Sequence[str]], said: str | None = None) -> Iterator[str]:
    yield ""
    yield f"### {heading}"
    yield ""
    if said:
        yield said
        yield ""
    yield from tables.markdown(rows)
