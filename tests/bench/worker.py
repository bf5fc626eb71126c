"""A process for each thing that is measured: one object, called by name over JSON lines.

The process times each call itself, so the pipe between is never part of a number. It may run in
another environment than the caller: this module needs the standard library only.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

TESTS = Path(__file__).resolve().parent.parent
START = f"import sys; sys.path[0] = {str(TESTS)!r}; from bench.worker import main; main()"
"""What a worker runs: this package is found by its place, whatever the current folder is."""


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


class WorkerError(RuntimeError):
    """A worker ended when it should have answered; its own message is on stderr."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call returned, and how long it ran in the worker.

    A method that returns one has timed itself.
    """

    result: Any
    seconds: float


class Worker:
    """The parent's end. The object is started by the constructor and stopped by the ``with`` block.

    Args:
        target: ``module:Class`` of what is to run there; it has ``start()`` and ``stop()``.
        settings: Keyword arguments of the class, as JSON knows them.
        threads: For OpenMP, before torch is loaded.
        python: The interpreter, if it is not this one.
        environment: Variables that are needed there.
    """

    def __init__(
        self,
        target: str,
        settings: Mapping[str, object],
        threads: int,
        *,
        python: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._target = target
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-c", START, target, json.dumps(settings)],
            env=_environment(threads, foreign=python is not None) | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._receive()
        except WorkerError:
            self.close()
            raise

    def call(self, method: str, **arguments: object) -> Reply:
        """Call a method there.

        Raises:
            WorkerError: It failed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([method, arguments]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"{self._target} has ended; what it said stands above") from None
        return self._receive()

    def close(self) -> None:
        """Let it stop; kill it if it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> Reply:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"{self._target} has ended; what it said stands above")
        return Reply(**json.loads(line))


def _environment(threads: int, *, foreign: bool) -> dict[str, str]:
    """As here, without the settings of a server that the caller may have at hand.

    A foreign interpreter does not look for modules where this one does.
    """
    unwanted = ("HEADSTREAM_", *(["PYTHON"] if foreign else []))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return kept | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}


def tell(text: str) -> None:
    """Say on stderr what happens now."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """The process; its arguments are ``MODULE:CLASS SETTINGS_JSON``."""
    # Libraries print what they like; the answers keep the real stdout for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(result: object, begin: float) -> None:
        seconds = time.perf_counter() - begin
        reply = result if isinstance(result, Reply) else Reply(result, seconds)
        print(
            json.dumps({"result": reply.result, "seconds": reply.seconds}), file=answers, flush=True
        )

    module, _, name = sys.argv[1].partition(":")
    subject = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    begin = time.perf_counter()
    subject.start()
    try:
        answer(None, begin)
        for line in sys.stdin:
            method, arguments = json.loads(line)
            begin = time.perf_counter()
            answer(getattr(subject, method)(**arguments), begin)
    finally:
        subject.stop()
