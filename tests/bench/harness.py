"""The measuring run: the contenders of one dtype after another, each dtype in its own rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import checks, logits, steps
from bench.contenders.registry import CONTENDERS, PEERS, REFERENCE, Prompts
from bench.home import Home
from bench.limits import ITEM_BYTES, ModelSizes
from bench.measuring import Measuring
from bench.plan import Place, Plan, Workload
from bench.worker import Worker, WorkerError, tell


def run(plan: Plan, place: Place) -> dict[str, Any]:
    """Measure everything; the result is ready for JSON.

    Raises:
        WorkerError: A contender failed, or a peer was installed for another model.
    """
    with Worker("bench.limits:Limits", _limits_settings(plan, place), place.threads) as limits:
        bench = Bench(plan, place, limits)
        runs = [bench.run(dtype) for dtype in plan.dtypes]
    return {
        "model": {
            "name": Path(place.source).name,
            "architecture": bench.model["architecture"],
            "sizes": bench.model["sizes"],
        },
        "settings": {
            **asdict(plan),
            "device": place.device,
            "threads": place.threads,
            "max_num_batched_tokens": place.max_num_batched_tokens,
        },
        "not_run": [name for name in PEERS if name not in bench.contenders],
        "runs": runs,
    }


def is_right(result: Mapping[str, Any]) -> bool:
    """Whether every check that must hold does."""
    return all(
        checks.is_right(run["checks"]) and all(map(logits.is_near, run.get("logits", ())))
        for run in result["runs"]  # older ones have no logits
    )


class Bench:
    """What all dtypes have in common: the model, who runs, and the prompts.

    Args:
        plan: How much is measured.
        place: Where.
        limits: The worker that measures the machine and knows the model.
    """

    def __init__(self, plan: Plan, place: Place, limits: Worker) -> None:
        self._plan = plan
        self._place = place
        self._limits = limits
        self.model = limits.call("model").result
        self._homes = find_homes(place.peers, self.model["directory"])
        self.contenders = [n for n in plan.contenders if n in self._homes or n not in PEERS]
        if not self.contenders:
            raise WorkerError(f"not installed: {', '.join(plan.contenders)}")
        self._streams = self._cut(max(*plan.streams, plan.rows_streams), plan.prompt)
        self._long = self._cut(*plan.prefill)

    def run(self, dtype: str) -> dict[str, Any]:
        """All rounds with one dtype."""
        plan, sizes = self._plan, ModelSizes(**self.model["sizes"])
        able = [name for name in self.contenders if dtype in CONTENDERS[name].dtypes]
        with ExitStack() as stack:
            workers = {name: stack.enter_context(self._start(name, dtype)) for name in able}
            measuring = Measuring(
                dtype,
                limits=self._limits,
                limit_seconds=plan.limit_seconds,
                workers=workers,
                workloads=self._workloads(able),
                rows=Workload("decode", self._streams[: plan.rows_streams], plan.new),
            )
            tell(f"{dtype}: warming up")
            measuring.warm_up()
            for index in range(plan.rounds):
                tell(f"{dtype}: round {index + 1} of {plan.rounds}")
                measuring.take_round(index)
            tell(f"{dtype}: comparing logits")
            compared = logits.compare_all(
                workers, self._streams, dtype, lambda: self._start(REFERENCE, logits.EXACT)
            )
            peers = {n: workers[n].call("describe").result for n in able if n in self._homes}
        tell(f"{dtype}: single steps")
        return {
            **measuring.result(sizes),
            "logits": compared,
            "peers": peers,
            "steps": steps.measure(
                plan.steps,
                machine=measuring.machine,
                sizes=dataclasses.replace(sizes, item_bytes=ITEM_BYTES[dtype]),
                max_model_len=self.model["max_model_len"],
                settings={
                    "source": self.model["directory"],
                    "cache_dir": self._place.cache_dir,
                    "device": self._place.device,
                    "dtype": dtype,
                    "num_threads": self._place.threads,
                },
            ),
        }

    def _workloads(self, able: list[str]) -> list[Workload]:
        """What is asked, as far as one of ``able`` can answer."""
        plan = self._plan
        workloads = [
            *(Workload("decode", self._streams[:count], plan.new) for count in plan.streams),
            Workload("prefill", self._long, 1),
            Workload("score", self._long, 0),
        ]
        answered = {kind for name in able for kind in CONTENDERS[name].answers}
        return [workload for workload in workloads if workload.kind in answered]

    def _start(self, name: str, dtype: str) -> Worker:
        """The worker of a contender, with its model loaded."""
        tell(f"{dtype}: starting {name}")
        place = self._place
        settings = {"directory": self.model["directory"], "dtype": dtype, "threads": place.threads}
        if (home := self._homes.get(name)) is None:
            settings |= {
                "cache_dir": place.cache_dir,
                "device": place.device,
                "max_num_batched_tokens": place.max_num_batched_tokens,
            }
            return Worker(CONTENDERS[name].target, settings, place.threads)
        return Worker(
            CONTENDERS[name].target,
            settings | {"home": str(home.folder)},
            place.threads,
            python=home.python,
            environment=home.environment,
        )

    def _cut(self, count: int, length: int) -> Prompts:
        prompts = self._limits.call(
            "prompts", count=count, length=length, bos_id=self.model["bos_id"]
        )
        return prompts.result


def _limits_settings(plan: Plan, place: Place) -> dict[str, Any]:
    return {
        "source": place.source,
        "cache_dir": place.cache_dir,
        "device": place.device,
        "threads": place.threads,
        "read_mib": plan.read_mib,
    }


def find_homes(peers: Path | None, directory: str) -> dict[str, Home]:
    """The peers that are installed.

    Raises:
        WorkerError: One was installed for another model.
    """
    homes = {name: Home(peers / name) for name in PEERS} if peers else {}
    installed = {name: home for name, home in homes.items() if home.model is not None}
    for name, home in installed.items():
        if home.model != directory:
            raise WorkerError(f"{name} is installed for another model; install it again")
    return installed
