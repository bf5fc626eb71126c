"""Seconds of one step of the engine, in its own process: against context, and against rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from bench.limits import ITEM_BYTES, Machine, ModelSizes, prefill_floor, step_floor
from bench.spread import spread
from bench.worker import Worker

BLOCK = 32  # tokens
DECODE_CONTEXT = 64  # keys of each sequence, where the number of rows varies
LEAST_RUNS = 5

Sweep = Literal["context", "decode rows", "prompt rows"]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Which steps are measured."""

    contexts: tuple[int, ...]  # keys that a row sees
    crowds: tuple[int, ...]  # sequences, one row each, at every context
    rows: tuple[int, ...]  # N: of so many sequences, and of one prompt
    seconds: float  # for each shape


@dataclass(frozen=True, slots=True)
class Shape:
    """One step: ``sequences`` of ``context`` keys each, of which the last ``rows`` are computed."""

    sweep: Sweep
    sequences: int
    rows: int  # of each sequence
    context: int

    @property
    def tokens(self) -> int:
        """N of the step."""
        return self.sequences * self.rows

    @property
    def blocks(self) -> int:
        """Blocks of KV memory."""
        return self.sequences * -(-self.context // BLOCK)

    def floor(self, machine: Machine, sizes: ModelSizes) -> float:
        """Seconds below which no engine gets."""
        if self.sweep == "prompt rows":
            return prefill_floor(machine, sizes, self.sequences, self.rows)
        return step_floor(machine, sizes, self.sequences, self.context)


def shapes(plan: StepPlan, max_model_len: int) -> Iterator[Shape]:
    """What a model with so many positions can do of a plan."""
    for crowd in plan.crowds:
        for context in plan.contexts:
            if context <= max_model_len:
                yield Shape("context", crowd, 1, context)
    for rows in plan.rows:
        yield Shape("decode rows", rows, 1, DECODE_CONTEXT)
    for rows in plan.rows:
        if rows <= max_model_len:
            yield Shape("prompt rows", 1, rows, rows)


def measure(
    plan: StepPlan,
    *,
    machine: Machine,
    sizes: ModelSizes,
    max_model_len: int,
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    """Every shape of a plan in a worker of its own, ready for JSON."""
    wanted = list(shapes(plan, max_model_len))
    block_bytes = BLOCK * len(sizes.windows) * sizes.kv_width * ITEM_BYTES[settings["dtype"]]
    # The least that the engine takes, besides: two chunks of a prompt.
    blocks = max(2 * 256 // BLOCK, *(shape.blocks for shape in wanted))
    settings = settings | {"block_size": BLOCK, "kv_cache_bytes": blocks * block_bytes}
    with Worker("bench.steps:Steps", settings, settings["num_threads"]) as worker:
        return [
            {
                "sweep": shape.sweep,
                "sequences": shape.sequences,
                "tokens": shape.tokens,
                "context": shape.context,
                "floor_seconds": shape.floor(machine, sizes),
                "seconds": spread(
                    worker.call(
                        "step",
                        sequences=shape.sequences,
                        rows=shape.rows,
                        context=shape.context,
                        behind=shape.sweep != "prompt rows",
                        seconds=plan.seconds,
                    ).result
                ),
            }
            for shape in wanted
        ]


class Steps:
    """A runner with a loaded model, given one packed batch again and again; runs in a worker."""

    def __init__(self, **settings: object) -> None:
        self._settings = {"name": "steps", **settings}

    def start(self) -> None:
        import msgspec

        from headstream.model.allocator import tune_allocator
        from headstream.server.engine.build import build
        from headstream.server.engine.config import EngineConfig

        tune_allocator()
        self._runner, scheduler, _ = build(
            msgspec.convert(self._settings, EngineConfig), lambda *_: None
        )
        self._pool = scheduler.pool
        # The keys and values that a step finds; memory never written could hold anything.
        for layer in range(self._runner.model.config.n_layers):
            for pool in self._runner.cache.layer(layer):
                pool.fill_(0.5)

    def stop(self) -> None:
        del self._runner, self._pool

    def step(
        self, sequences: int, rows: int, context: int, seconds: float, *, behind: bool
    ) -> list[float]:
        """Seconds of each run of one step, packing included; each sequence draws a token.

        Args:
            sequences: How many share the step.
            rows: Of each, the last ones.
            context: Keys of each, these rows' included.
            seconds: For all runs, of which there are at least a few.
            behind: Whether the rows stand behind the prompt, where they are attended one by one.
        """
        from headstream.server.engine.messages import Submit
        from headstream.server.engine.packing import pack
        from headstream.server.engine.sequence import Sequence

        vocabulary = self._runner.model.config.d_vocab
        schedule: dict[Sequence, int] = {}
        for number in range(sequences):
            ids = [(7 * position + number) % vocabulary for position in range(context)]
            prompt, output = (ids[:-rows], ids[-rows:]) if behind else (ids, [])
            sequence = Sequence(
                Submit(number, tuple(prompt), max_new_tokens=len(output) + 1),
                arrival_ns=0,
                output_ids=output,
                block_ids=self._pool.allocate(self._pool.blocks_for(context)),
                num_computed=context - rows,
            )
            schedule[sequence] = rows
        times: list[float] = []
        while len(times) < 1 + LEAST_RUNS or sum(times) < seconds:
            begin = time.perf_counter()
            drawn = self._runner.run(pack(schedule, self._pool.block_size).batch).rows
            times.append(time.perf_counter() - begin)
            if len(drawn) != sequences:
                raise RuntimeError(f"{sequences} sequences drew {len(drawn)} tokens")
        for sequence in schedule:
            self._pool.release(sequence.block_ids)
        return times[1:]  # the first one also builds what the others reuse
