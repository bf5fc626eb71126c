"""The rounds with one dtype: who is called when, and what the times come to."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from bench import checks
from bench.contenders import GRPC, Prompts
from bench.limits import ITEM_BYTES, Machine, ModelSizes, step_floor
from bench.plan import Workload
from bench.worker import Reply, Worker

WARM_UP_TOKENS = 4
LOGITS_MODES: tuple[Literal["none", "top", "full"], ...] = ("none", "top", "full")


class Measuring:
    """Gathers seconds and tokens, round by round.

    Args:
        dtype: Of weights and activations.
        limits: The worker that measures the machine.
        limit_seconds: For each of its loops, every round.
        workers: The contenders by name.
        workloads: What each of them is asked.
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
        # By contender, for each workload: the seconds of each round, and the tokens of the last.
        self._seconds: dict[str, list[list[float]]] = {n: [[] for _ in workloads] for n in workers}
        self._tokens: dict[str, list[Prompts]] = {n: [[] for _ in workloads] for n in workers}
        self._row_replies: dict[str, list[Reply]] = {mode: [] for mode in LOGITS_MODES}

    def warm_up(self) -> None:
        """Every shape once, so that nothing is built or allocated while it is timed."""
        for worker in self._workers.values():
            for workload in self._workloads:
                workload.shortened(WARM_UP_TOKENS).run(worker)
        if GRPC in self._workers:
            for mode in LOGITS_MODES:
                self._rows.shortened(WARM_UP_TOKENS).run_rows(self._workers[GRPC], mode)

    def take_round(self, index: int) -> None:
        """Everything once; who begins changes from round to round."""
        limits = self._limits.call("measure", dtype=self._dtype, seconds=self._limit_seconds)
        self._machines.append(Machine(**limits.result))
        names = list(self._workers)
        shift = index % len(names)
        for number, workload in enumerate(self._workloads):
            for name in names[shift:] + names[:shift]:
                reply = workload.run(self._workers[name])
                self._seconds[name][number].append(reply.seconds)
                self._tokens[name][number] = reply.result
        if GRPC in self._workers:
            for mode, replies in self._row_replies.items():
                replies.append(self._rows.run_rows(self._workers[GRPC], mode))

    def result(self, sizes: ModelSizes) -> dict[str, Any]:
        """What was measured, ready for JSON."""
        machine = Machine(
            read_bytes=statistics.median(m.read_bytes for m in self._machines),
            gemm_flops=statistics.median(m.gemm_flops for m in self._machines),
        )
        sizes = dataclasses.replace(sizes, item_bytes=ITEM_BYTES[self._dtype])
        exact = self._dtype == "float32"
        return {
            "dtype": self._dtype,
            "limits": {
                "read_bytes_per_second": _spread(m.read_bytes for m in self._machines),
                "gemm_flops_per_second": _spread(m.gemm_flops for m in self._machines),
            },
            "workloads": [
                self._workload_result(number, machine, sizes)
                for number in range(len(self._workloads))
            ],
            "rows": [
                self._rows_result(mode, replies)
                for mode, replies in self._row_replies.items()
                if replies
            ],
            "checks": checks.check_tokens(self._tokens, self._workloads, exact=exact),
        }

    def _workload_result(self, number: int, machine: Machine, sizes: ModelSizes) -> dict[str, Any]:
        workload = self._workloads[number]
        floor = workload.floor(machine, sizes)
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
            described["step_floor_seconds"] = step_floor(machine, sizes, workload.streams, middle)
        for name in self._workers:
            seconds = self._seconds[name][number]
            described["contenders"][name] = {
                "seconds": seconds,
                "rate": _spread(workload.tokens / each for each in seconds),
                "of_floor": floor / statistics.median(seconds),
            }
        return described

    def _rows_result(self, mode: str, replies: Sequence[Reply]) -> dict[str, Any]:
        last = replies[-1].result
        return {
            "logits": mode,
            "streams": self._rows.streams,
            **last,
            "rate": _spread(last["tokens"] / reply.seconds for reply in replies),
            "bytes_per_second": _spread(last["bytes"] / reply.seconds for reply in replies),
        }


def _spread(values: Iterable[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "low": ordered[0], "high": ordered[-1]}
