"""What a step costs besides the model: schedule, pack, update and report, by sequences decoding.

    python tests/bench/scheduling.py --out scheduling.json

The core of an engine with a runner that computes nothing, while as many sequences wait in line. The
message of each step is encoded as the engine's process would, and not sent.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from headstream.model.batch import PREFILL_GRID, PackedBatch, RowResult, StepOutput
from headstream.model.outputs import Outputs
from headstream.model.runner import Runner
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.core import EngineCore
from headstream.server.engine.messages import FromEngine, Submit
from headstream.server.engine.plan import Schedule
from headstream.server.engine.report import Frames
from headstream.server.engine.scheduler import Scheduler

SIZES = (1, 32, 256, 1024, 4096)  # sequences
PROMPT = 300  # tokens
BLOCK = 32  # tokens
DECODE_STEP_MS = 400.0  # 256 rows of Gemma 3 270M in bfloat16 on 2 cores
_WARM_UP = 5  # steps

_clock = time.perf_counter_ns


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians over the steps, in microseconds."""

    sequences: int
    schedule: float
    pack: float
    update_report: float

    @property
    def total(self) -> float:
        """Everything but the model."""
        return self.schedule + self.pack + self.update_report


class _Times:
    """When the parts of the last step began and ended, in nanoseconds."""

    schedule_begin = schedule_end = run_begin = run_end = 0


class _Scheduler(Scheduler):
    """Notes when it is asked."""

    times: _Times

    def schedule(self) -> Schedule:
        self.times.schedule_begin = _clock()
        schedule = super().schedule()
        self.times.schedule_end = _clock()
        return schedule


class _Runner:
    """Answers every row with the same token; the time it takes is left out."""

    model = SimpleNamespace(config=SimpleNamespace(causal=True), unembed=True)

    def __init__(self, times: _Times) -> None:
        self._times = times

    def run(self, batch: PackedBatch) -> StepOutput:
        self._times.run_begin = _clock()
        row = RowResult(token_id=7, logprob=-1.0, values=None, value_ids=())
        output = StepOutput((row,) * len(batch.heads), {})
        self._times.run_end = _clock()
        return output


def measure(sequences: int, steps: int) -> Costs:
    """Medians over ``steps`` steps in which ``sequences`` decode and as many wait."""
    times = _Times()
    length = PROMPT + _WARM_UP + steps + 1
    pool = BlockPool(sequences * -(-length // BLOCK), BLOCK)
    # All prompts in the first step, so that all begin to decode together.
    budget = PREFILL_GRID + sequences * PROMPT
    scheduler = _Scheduler(pool, budget, sequences)
    scheduler.times = times
    encoder = msgspec.msgpack.Encoder()

    def send(message: FromEngine, _: Frames) -> None:
        encoder.encode(message)

    core = EngineCore(cast(Runner, _Runner(times)), scheduler, send)
    for number in range(2 * sequences):
        # Tokens of its own: nothing is shared.
        prompt = tuple(range(number, number + PROMPT))
        core.handle(Submit(number, prompt, length - PROMPT, outputs=Outputs(logprob=True)))
    core.step()
    samples: list[tuple[int, int, int]] = []
    for _ in range(_WARM_UP + steps):
        core.step()
        end = _clock()
        samples.append(
            (
                times.schedule_end - times.schedule_begin,
                times.run_begin - times.schedule_end,
                end - times.run_end,
            )
        )
    return Costs(
        sequences,
        *(statistics.median(part) / 1e3 for part in zip(*samples[_WARM_UP:], strict=True)),
    )


def table(results: Sequence[Costs]) -> str:
    """The figures, one line a size."""
    lines = ["sequences  schedule      pack update+report  total us us/sequence of a decode step"]
    for costs in results:
        # A step of fewer rows is shorter, but not in proportion: one size alone is compared.
        share = f"{costs.total / DECODE_STEP_MS / 10:.2f}%" if costs.sequences == 256 else ""
        lines.append(
            f"{costs.sequences:>9} {costs.schedule:>9.1f} {costs.pack:>9.1f} "
            f"{costs.update_report:>13.1f} {costs.total:>9.1f} "
            f"{costs.total / costs.sequences:>11.2f} {share:>16}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    results = [measure(count, arguments.steps) for count in arguments.sequences]
    document: list[dict[str, Any]] = [
        dataclasses.asdict(costs) | {"total": costs.total} for costs in results
    ]
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
