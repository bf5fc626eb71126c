"""The measuring run: the contenders of one dtype after another, each dtype in its own rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from bench import checks
from bench.contenders import CONTENDERS, Prompts
from bench.limits import ModelSizes
from bench.measuring import Measuring
from bench.plan import Place, Plan, Workload
from bench.worker import Worker, tell


def run(plan: Plan, place: Place) -> dict[str, Any]:
    """Measure everything; the result is ready for JSON."""
    settings = {
        "source": place.source,
        "cache_dir": place.cache_dir,
        "threads": place.threads,
        "read_mib": plan.read_mib,
    }
    with Worker("bench.limits:Limits", settings, place.threads) as limits:
        model = limits.call("model").result
        streams, prefill = _cut_prompts(plan, limits, model["bos_id"])
        workloads = [
            *(Workload("decode", streams[:n], plan.new) for n in plan.streams),
            Workload("prefill", prefill, 1),
        ]
        rows = Workload("decode", streams[: plan.rows_streams], plan.new)
        runs = []
        for dtype in plan.dtypes:
            with ExitStack() as stack:
                measuring = Measuring(
                    dtype,
                    limits=limits,
                    limit_seconds=plan.limit_seconds,
                    workers=_start(stack, place, plan.contenders, model["directory"], dtype),
                    workloads=workloads,
                    rows=rows,
                )
                tell(f"{dtype}: warming up")
                measuring.warm_up()
                for index in range(plan.rounds):
                    tell(f"{dtype}: round {index + 1} of {plan.rounds}")
                    measuring.take_round(index)
            runs.append(measuring.result(ModelSizes(**model["sizes"])))
    return {
        "model": {name: model[name] for name in ("architecture", "sizes")},
        "settings": {
            **asdict(plan),
            "threads": place.threads,
            "max_num_batched_tokens": place.max_num_batched_tokens,
        },
        "runs": runs,
    }


def is_right(result: Mapping[str, Any]) -> bool:
    """Whether every check that must hold does."""
    return all(checks.is_right(each["checks"]) for each in result["runs"])


def _cut_prompts(plan: Plan, limits: Worker, bos_id: int | None) -> tuple[Prompts, Prompts]:
    """Prompts to decode and prompts to prefill."""
    count = max(*plan.streams, plan.rows_streams)
    streams = limits.call("prompts", count=count, length=plan.prompt, bos_id=bos_id)
    count, length = plan.prefill
    prefill = limits.call("prompts", count=count, length=length, bos_id=bos_id)
    return streams.result, prefill.result


def _start(
    stack: ExitStack, place: Place, names: Sequence[str], directory: str, dtype: str
) -> dict[str, Worker]:
    """A worker for each contender, loaded one after the other."""
    settings = {
        "directory": directory,
        "dtype": dtype,
        "threads": place.threads,
        "cache_dir": place.cache_dir,
        "max_num_batched_tokens": place.max_num_batched_tokens,
    }
    workers: dict[str, Worker] = {}
    for name in names:
        tell(f"{dtype}: starting {name}")
        workers[name] = stack.enter_context(Worker(CONTENDERS[name], settings, place.threads))
    return workers
