"""Branches of sessions: whatever is done to them, their rows are those of their tokens alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from engine_trace import D_VOCAB, DTYPES, Trace
from headstream.model.batch import FINAL
from headstream.model.outputs import LogitsSpec, Outputs, RowsSpec
from headstream.server.engine.branches import Branches
from headstream.server.engine.messages import Abort, Append, Fork, Rollback

FULL = Outputs(logits=LogitsSpec("full"))
Oracle = Callable[[list[int]], list[bytes]]


@dataclass
class Branch:
    """A branch and the rows that must come, by position."""

    id: int
    token_ids: list[int]
    expected: list[tuple[int, bytes]] = field(default_factory=list)

    def expect(self, oracle: Oracle, start: int) -> None:
        rows = oracle(self.token_ids)
        self.expected += [(i, rows[i]) for i in range(start, len(self.token_ids))]


def forward_oracle(directory: Path, cache_dir: Path, **settings: Any) -> Oracle:
    """The rows of a whole text in one forward pass, which shares nothing with anybody."""
    trace = Trace(directory, cache_dir, prefix_caching=False, **settings)
    dtype = trace.runner.cache._pool.dtype
    outputs = Outputs(rows=RowsSpec(prompt_layers=(FINAL,), dtype=trace.ready.dtype))  # type: ignore[arg-type]

    def rows(token_ids: list[int]) -> list[bytes]:
        sequence_id = trace.submit(token_ids, outputs=outputs)
        trace.run()
        final = trace.news[sequence_id].rows
        data = b"".join(final[FINAL, i] for i in range(len(token_ids)))
        resid = torch.frombuffer(bytearray(data), dtype=dtype).view(len(token_ids), -1)
        with torch.inference_mode():
            return [row.numpy().tobytes() for row in trace.runner.model.unembed(resid)]

    return rows


class Driver:
    """Random moves on random branches."""

    def __init__(self, trace: Trace, oracle: Oracle, seed: int, longest: int = 400) -> None:
        self.trace = trace
        self.oracle = oracle
        self.rng = random.Random(seed)
        self.longest = longest
        self.branches: list[Branch] = []
        self.rows = self.moves = 0

    def open(self) -> None:
        length = self.rng.choice([1, 3, 31, 32, 33, 100, 256, 300])
        base = random.Random(length % 2)  # prompts begin alike, so that chunks are shared too
        prompt = [base.randrange(D_VOCAB) for _ in range(length)]
        new = self.longest - length
        branch = Branch(self.trace.submit(prompt, new, outputs=FULL, branch=True), prompt)
        branch.expect(self.oracle, length - 1)
        self.branches.append(branch)

    def append(self, branch: Branch) -> None:
        count = min(self.rng.choice([1, 1, 1, 2, 5, 40, 90]), self.longest - len(branch.token_ids))
        if count:
            start = len(branch.token_ids)
            token_ids = tuple(self.rng.randrange(D_VOCAB) for _ in range(count))
            branch.token_ids += token_ids
            branch.expect(self.oracle, start)
            self.trace.core.handle(Append(branch.id, token_ids))

    def fork(self, branch: Branch) -> None:
        if len(self.branches) < 12:
            twin = Branch(next(self.trace._ids), branch.token_ids[:], branch.expected[:])
            news = self.trace.news[branch.id]
            self.trace.news[twin.id] = type(news)(logit_rows=news.logit_rows[:])
            self.trace.core.handle(Fork(branch.id, twin.id))
            self.branches.append(twin)

    def rollback(self, branch: Branch) -> None:
        length = self.rng.randint(max(1, len(branch.token_ids) - 50), len(branch.token_ids))
        if self.rng.random() < 0.1:
            length = self.rng.randint(1, len(branch.token_ids))
        row = self.rng.random() < 0.3
        del branch.token_ids[length:]
        if row:
            branch.expect(self.oracle, length - 1)
        self.trace.core.handle(Rollback(branch.id, length, row))

    def close(self, branch: Branch) -> None:
        self.branches.remove(branch)
        self.trace.core.handle(Abort(branch.id))
        self.check(branch)

    def check(self, branch: Branch) -> None:
        assert self.trace.news[branch.id].logit_rows == branch.expected, "other rows came"
        self.rows += len(branch.expected)

    def move(self) -> None:
        """Moves on some branches, then all are computed, as a session that awaits its answers."""
        if len(self.branches) < 2:
            self.open()
            self.trace.run()
        moves = [self.append] * 6 + [self.fork] * 2 + [self.rollback] * 3 + [self.close]
        count = self.rng.randint(1, len(self.branches))
        for branch in self.rng.sample(self.branches, count):
            self.rng.choice(moves)(branch)
            self.moves += 1
        self.trace.run()

    def play(self, rounds: int) -> None:
        """Random moves, then the end of all branches."""
        for _ in range(rounds):
            self.move()
        for branch in self.branches[:]:
            self.close(branch)
        self.trace.scheduler.check_integrity()
        assert self.trace.scheduler.num_blocks_used == 0
        assert not self.trace.core.has_work


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", [200, 24])
def test_a_thousand_random_moves_give_the_bits_of_a_fresh_forward(
    tiny_gemma: Path, cache_dir: Path, dtype: str, blocks: int
) -> None:
    """With few blocks most branches lose theirs and are computed again."""
    oracle = forward_oracle(tiny_gemma, cache_dir, dtype=dtype)
    block_bytes = Trace(tiny_gemma, cache_dir, dtype=dtype).block_bytes
    trace = Trace(tiny_gemma, cache_dir, dtype=dtype, kv_cache_bytes=blocks * block_bytes)
    driver = Driver(trace, oracle, seed=blocks)
    driver.play(250)
    assert driver.moves > 1000
    assert driver.rows > 3000
    assert (trace.scheduler.preemptions > 50) == (blocks == 24)


def test_without_copy_on_write_the_bits_differ(
    tiny_gemma: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(Branches, "shares_last_block", lambda *_: False)
    driver = Driver(Trace(tiny_gemma, cache_dir), forward_oracle(tiny_gemma, cache_dir), seed=200)
    with pytest.raises(AssertionError, match="other rows"):
        driver.play(250)
