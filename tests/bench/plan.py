"""What is measured: how much of it, where, and the calls that every contender answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.contenders.registry import CONTENDERS, GRPC, PEERS, REFERENCE, Kind, Prompts
from bench.limits import Machine, ModelSizes, decode_floor, prefill_floor, score_floor
from bench.steps import StepPlan
from bench.worker import Reply, Worker

WARM_UP_TOKENS = 4
WARM_UP_PROMPTS = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    contenders: tuple[str, ...]
    dtypes: tuple[str, ...]
    streams: tuple[int, ...]
    prompt: int  # tokens of a prompt
    new: int  # tokens generated for each
    prefill: tuple[int, int]  # prompts, tokens of each
    rows_streams: int  # streams that receive rows of logits
    steps: StepPlan  # single steps of ours
    rounds: int
    limit_seconds: float  # for each loop of the limits, every round
    read_mib: int  # memory that is read to measure the bandwidth

    def changed(self, **changes: Any) -> Self:
        """The plan with every change that is not None."""
        given = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(self, **given)


FULL = Plan(
    contenders=tuple(CONTENDERS),
    dtypes=("float32", "bfloat16"),
    streams=(1, 8, 32),
    prompt=64,
    new=128,
    prefill=(32, 256),
    rows_streams=8,
    steps=StepPlan(
        contexts=(64, 256, 512, 1024, 2048, 4096, 8192),
        crowds=(1, 8),
        rows=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        seconds=0.5,
    ),
    rounds=3,
    limit_seconds=0.5,
    read_mib=1024,
)
QUICK = Plan(
    contenders=("headstream", GRPC, *PEERS, REFERENCE),
    dtypes=("float32",),
    streams=(1, 8),
    prompt=16,
    new=8,
    prefill=(4, 64),
    rows_streams=8,
    steps=StepPlan(contexts=(64, 256), crowds=(1, 8), rows=(1, 8), seconds=0.02),
    rounds=1,
    limit_seconds=0.02,
    read_mib=256,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is measured."""

    source: str  # as the user names the model
    cache_dir: str
    device: str
    threads: int
    max_num_batched_tokens: int | None  # of a step of ours; None: the server's own default
    peers: Path | None  # the folder they are installed in


@dataclass(frozen=True, slots=True)
class Workload:
    """One call that every contender answers."""

    kind: Kind
    prompts: Prompts
    new: int

    @property
    def streams(self) -> int:
        """Sequences at once."""
        return len(self.prompts)

    @property
    def length(self) -> int:
        """Tokens of each prompt."""
        return len(self.prompts[0])

    @property
    def tokens(self) -> int:
        """What the rate counts: tokens generated, or tokens read."""
        return self.streams * (self.new if self.kind == "decode" else self.length)

    @property
    def length_out(self) -> int:
        """Values that come back for each prompt."""
        return self.length - 1 if self.kind == "score" else self.new

    def shortened(self) -> Self:
        """Every shape of it once: all streams get a few tokens, a few long prompts are read."""
        prompts = self.prompts if self.kind == "decode" else self.prompts[:WARM_UP_PROMPTS]
        return dataclasses.replace(self, prompts=prompts, new=min(WARM_UP_TOKENS, self.new))

    def run(self, worker: Worker) -> Reply:
        """One call; ``result`` is tokens or log-probabilities, as many as were asked for.

        None: the contender tells none of them; it has counted them itself.

        Raises:
            RuntimeError: There are more or fewer.
        """
        arguments = {"new": self.new} if self.kind == "decode" else {}
        reply = worker.call(self.kind, prompts=self.prompts, **arguments)
        if reply.result is None:
            return reply
        counts = [len(values) for values in reply.result]
        if counts != [self.length_out] * self.streams:
            raise RuntimeError(f"{self.kind}: {counts} came back, {self.length_out} each expected")
        return reply

    def run_rows(self, worker: Worker, logits: str) -> Reply:
        """One call with logits beside each token; ``result`` is counts of tokens and bytes.

        Raises:
            RuntimeError: There are more or fewer tokens than were asked for.
        """
        reply = worker.call("rows", prompts=self.prompts, new=self.new, logits=logits)
        if reply.result["tokens"] != self.tokens:
            raise RuntimeError(f"rows: {reply.result} came back, {self.tokens} tokens expected")
        return reply

    def floor(self, machine: Machine, sizes: ModelSizes) -> float:
        """Seconds below which no engine gets."""
        if self.kind == "decode":
            return decode_floor(machine, sizes, self.streams, self.length, self.new)
        floor = prefill_floor if self.kind == "prefill" else score_floor
        return floor(machine, sizes, self.streams, self.length)
