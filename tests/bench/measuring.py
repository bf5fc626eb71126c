"""The rounds with one dtype: who is called when, and what the times come to."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bench import checks
from bench.contenders.registry import CONTENDERS, GRPC
from bench.limits import ITEM_BYTES, Machine, ModelSizes, step_floor
from bench.plan import Workload
from bench.spread import spread, tail
from bench.worker import Reply, Worker

LOGITS_MODES: tuple[Literal["none", "top", "full"], ...] = ("none", "top", "full")


class Measuring:
    """Gathers seconds and answers, round by round.

    Args:
        dtype: Of weights and activations.
        limits: The worker that measures the machine.
        limit_seconds: For each of its loops, every round.
        workers: The contenders by name.
        workloads: What each of them is asked, as far as it can answer.
        rows: What is asked with rows of logits too.
    """

    def __init__(
        self,
        dtype: str,
        *,
        limits: Worker,
        limit_seconds: float,
        workers: Mapping[str, Worker],
        workloads: Sequence[Workload],
        rows: Workload,
    ) -> None:
        self._dtype = dtype
        self._limits = limits
        self._limit_seconds = limit_seconds
        self._workers = workers
        self._workloads = workloads
        self._rows = rows
        self._machines: list[Machine] = []
        # By contender, for each workload: the seconds of each round, and the answer of the last.
        self._seconds: dict[str, list[list[float]]] = {n: [[] for _ in workloads] for n in workers}
        self._answers: dict[str, list[Any]] = {n: [None for _ in workloads] for n in workers}
        # For each workload, of all rounds: seconds to first tokens, and between tokens.
        self._latencies: list[dict[str, list[float]]] = [defaultdict(list) for _ in workloads]
        self._row_replies: dict[str, list[Reply]] = {mode: [] for mode in LOGITS_MODES}

    def warm_up(self) -> None:
        """Every shape once, so that nothing is built or allocated while it is timed."""
        for workload in self._workloads:
            for name in self._able(workload):
                workload.shortened().run(self._workers[name])
        if GRPC in self._workers:
            for mode in LOGITS_MODES:
                self._rows.shortened().run_rows(self._workers[GRPC], mode)

    def take_round(self, index: int) -> None:
        """Everything once; who begins changes from round to round."""
        limits = self._limits.call("measure", dtype=self._dtype, seconds=self._limit_seconds)
        self._machines.append(Machine(**limits.result))
        for number, workload in enumerate(self._workloads):
            names = self._able(workload)
            shift = index % len(names)
            for name in names[shift:] + names[:shift]:
                reply = workload.run(self._workers[name])
                self._seconds[name][number].append(reply.seconds)
                self._answers[name][number] = reply.result
                if name == GRPC and workload.kind == "decode":
                    waited = self._workers[name].call("latencies").result
                    for what, seconds in waited.items():
                        self._latencies[number][what] += seconds
        if GRPC in self._workers:
            for mode, replies in self._row_replies.items():
                replies.append(self._rows.run_rows(self._workers[GRPC], mode))

    @property
    def machine(self) -> Machine:
        """The highest rates of all rounds: what the machine has done once it can do."""
        return Machine(
            read_bytes=max(m.read_bytes for m in self._machines),
            gemm_flops=max(m.gemm_flops for m in self._machines),
        )

    def result(self, sizes: ModelSizes) -> dict[str, Any]:
        """What was measured, ready for JSON."""
        sizes = dataclasses.replace(sizes, item_bytes=ITEM_BYTES[self._dtype])
        exact = self._dtype == "float32"
        return {
            "dtype": self._dtype,
            "limits": {
                "read_bytes_per_second": spread(m.read_bytes for m in self._machines),
                "gemm_flops_per_second": spread(m.gemm_flops for m in self._machines),
            },
            "workloads": [
                self._workload_result(number, sizes) for number in range(len(self._workloads))
            ],
            "rows": [
                self._rows_result(mode, replies)
                for mode, replies in self._row_replies.items()
                if replies
            ],
            "checks": checks.check(self._answers, self._workloads, exact=exact),
        }

    def _able(self, workload: Workload) -> list[str]:
        """Who answers a workload."""
        return [name for name in self._workers if workload.kind in CONTENDERS[name].answers]

    def _workload_result(self, number: int, sizes: ModelSizes) -> dict[str, Any]:
        workload = self._workloads[number]
        floor = workload.floor(self.machine, sizes)
        described: dict[str, Any] = {
            "kind": workload.kind,
            "streams": workload.streams,
            "prompt_tokens": workload.length,
            "new_tokens": workload.new,
            "tokens": workload.tokens,
            "floor_seconds": floor,
            "floor_rate": workload.tokens / floor,
            "contenders": {},
        }
        if workload.kind == "decode":
            middle = workload.length + workload.new // 2
            described["step_floor_seconds"] = step_floor(
                self.machine, sizes, workload.streams, middle
            )
        if waited := self._latencies[number]:
            described["latency_seconds"] = {what: tail(seconds) for what, seconds in waited.items()}
        for name in self._able(workload):
            seconds = self._seconds[name][number]
            described["contenders"][name] = {
                "seconds": seconds,
                "rate": spread(workload.tokens / each for each in seconds),
                "of_floor": floor / statistics.median(seconds),
            }
        return described

    def _rows_result(self, mode: str, replies: Sequence[Reply]) -> dict[str, Any]:
        last = replies[-1].result
        return {
            "logits": mode,
            "streams": self._rows.streams,
            **last,
            "rate": spread(last["tokens"] / reply.seconds for reply in replies),
            "bytes_per_second": spread(last["bytes"] / reply.seconds for reply in replies),
        }
