"""What is measured: how much of it, where, and the calls that every contender answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

from bench.contenders import CONTENDERS, GRPC, REFERENCE, Prompts
from bench.limits import Machine, ModelSizes, decode_floor, prefill_floor
from bench.worker import Reply, Worker


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
    rounds=3,
    limit_seconds=0.5,
    read_mib=1024,
)
QUICK = Plan(
    contenders=("headstream", GRPC, REFERENCE),
    dtypes=("float32",),
    streams=(1, 8),
    prompt=16,
    new=8,
    prefill=(4, 64),
    rows_streams=8,
    rounds=1,
    limit_seconds=0.02,
    read_mib=256,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is measured."""

    source: str  # as the user names the model
    cache_dir: str
    threads: int
    max_num_batched_tokens: int | None  # of a step of ours; None: the server's own default


@dataclass(frozen=True, slots=True)
class Workload:
    """One call that every contender answers."""

    kind: Literal["decode", "prefill"]
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

    def shortened(self, new: int) -> Self:
        """The same with at most ``new`` tokens generated."""
        return dataclasses.replace(self, new=min(new, self.new))

    def run(self, worker: Worker) -> Reply:
        """One call; ``result`` is the tokens, as many as were asked for.

        Raises:
            RuntimeError: There are more or fewer.
        """
        if self.kind == "decode":
            reply = worker.call("decode", prompts=self.prompts, new=self.new)
        else:
            reply = worker.call("prefill", prompts=self.prompts)
        counts = [len(tokens) for tokens in reply.result]
        if counts != [self.new] * self.streams:
            raise RuntimeError(f"{self.kind}: {counts} tokens came back, {self.new} each expected")
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
        return prefill_floor(machine, sizes, self.streams, self.length)
