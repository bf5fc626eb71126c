"""Random moves on random branches of an engine core, and the rows that must come of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engine_trace import Trace
from headstream.model.batch import FINAL
from headstream.model.outputs import LogitsSpec, Outputs, RowsSpec
from headstream.server.engine.messages import Abort, Append, Rollback
from tiny_models import D_VOCAB

FULL = Outputs(logits=LogitsSpec("full"))
LONGEST = 400

Oracle = Callable[[list[int], int], dict[int, bytes]]
"""From the tokens of a branch, and how many of them are left of its prompt, to rows by position."""


def forward_oracle(directory: Path, cache_dir: Path, **settings: Any) -> Oracle:
    """The rows of the whole text read as one prompt, by an engine that shares nothing."""
    trace = Trace(directory, cache_dir, prefix_caching=False, **settings)
    dtype = trace.runner.cache.layer(0)[0].dtype
    unembed = trace.runner.model.unembed
    assert unembed is not None
    outputs = Outputs(rows=RowsSpec(prompt_layers=(FINAL,), dtype=settings["dtype"]))

    def rows(token_ids: list[int], _: int) -> dict[int, bytes]:
        sequence_id = trace.submit(token_ids, outputs=outputs)
        trace.run()
        final = trace.news.pop(sequence_id).rows
        data = b"".join(final[FINAL, i] for i in range(len(token_ids)))
        resid = torch.frombuffer(bytearray(data), dtype=dtype).view(len(token_ids), -1)  # [n, d]
        with torch.inference_mode():
            logits = unembed(resid)  # [n, V]
        return {i: row.numpy().tobytes() for i, row in enumerate(logits)}

    return rows


def session_oracle(directory: Path, cache_dir: Path, **settings: Any) -> Oracle:
    """The rows of a fresh session: the prompt, and behind it all the other tokens at once."""
    trace = Trace(directory, cache_dir, prefix_caching=False, **settings)

    def rows(token_ids: list[int], prompt_len: int) -> dict[int, bytes]:
        branch_id = trace.submit(token_ids[:prompt_len], LONGEST, outputs=FULL, branch=True)
        trace.run()
        if token_ids[prompt_len:]:
            trace.core.handle(Append(branch_id, tuple(token_ids[prompt_len:])))
            trace.run()
        trace.core.handle(Abort(branch_id))
        return dict(trace.news.pop(branch_id).logit_rows)

    return rows


@dataclass
class Branch:
    """A branch, and the rows that must come, by position."""

    id: int
    token_ids: list[int]
    prompt_len: int
    expected: list[tuple[int, bytes]] = field(default_factory=list)


class Driver:
    """Plays sessions against an engine core; moves are made once the moves before are answered."""

    def __init__(self, trace: Trace, oracle: Oracle, seed: int) -> None:
        self.trace = trace
        self.oracle = oracle
        self.rng = random.Random(seed)
        self.branches: list[Branch] = []
        self.rows = self.moves = 0

    def play(self, rounds: int, between: Callable[[], None]) -> None:
        """Moves on some branches, then ``between``, again and again, and the end of all."""
        for _ in range(rounds):
            if len(self.branches) < 2:
                self.open()
            ready = [branch for branch in self.branches if self._is_answered(branch)]
            for branch in self.rng.sample(ready, self.rng.randint(0, len(ready))):
                kinds = [self.append] * 6 + [self.fork] * 2 + [self.rollback] * 3 + [self.close]
                self.rng.choice(kinds)(branch)
                self.moves += 1
            between()
            self.trace.scheduler.check_integrity()
        self.trace.run()
        for branch in self.branches[:]:
            self.close(branch)
        self.trace.scheduler.check_integrity()
        assert self.trace.scheduler.num_blocks_used == 0
        assert not self.trace.core.has_work

    def open(self) -> None:
        length = self.rng.choice([1, 3, 31, 32, 33, 100, 256, 300])
        base = random.Random(length % 2)  # prompts begin alike, so that chunks are shared too
        prompt = [base.randrange(D_VOCAB) for _ in range(length)]
        branch_id = self.trace.submit(prompt, LONGEST - length, outputs=FULL, branch=True)
        branch = Branch(branch_id, prompt, length)
        self._expect(branch, length - 1)
        self.branches.append(branch)

    def append(self, branch: Branch) -> None:
        count = min(self.rng.choice([1, 1, 1, 2, 5, 40, 90]), LONGEST - len(branch.token_ids))
        if count:
            start = len(branch.token_ids)
            token_ids = tuple(self.rng.randrange(D_VOCAB) for _ in range(count))
            branch.token_ids += token_ids
            self._expect(branch, start)
            self.trace.core.handle(Append(branch.id, token_ids))

    def fork(self, branch: Branch) -> None:
        if len(self.branches) < 12:
            twin_id = self.trace.fork(branch.id)
            self.branches.append(Branch(twin_id, branch.token_ids[:], branch.prompt_len))

    def rollback(self, branch: Branch) -> None:
        longest = len(branch.token_ids)
        length = self.rng.randint(max(1, longest - 50), longest)
        if self.rng.random() < 0.1:
            length = self.rng.randint(1, longest)
        row = self.rng.random() < 0.3
        del branch.token_ids[length:]
        branch.prompt_len = min(branch.prompt_len, length)
        if row:
            self._expect(branch, length - 1)
        self.trace.core.handle(Rollback(branch.id, length, row))

    def close(self, branch: Branch) -> None:
        self.branches.remove(branch)
        self.trace.core.handle(Abort(branch.id))
        assert self.trace.news[branch.id].logit_rows == branch.expected, "other rows came"
        self.rows += len(branch.expected)

    def _expect(self, branch: Branch, start: int) -> None:
        rows = self.oracle(branch.token_ids, branch.prompt_len)
        branch.expected += [(i, rows[i]) for i in range(start, len(branch.token_ids))]

    def _is_answered(self, branch: Branch) -> bool:
        return len(self.trace.news[branch.id].logit_rows) == len(branch.expected)
