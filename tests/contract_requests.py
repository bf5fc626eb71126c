"""Requests of every kind and what they get; as a program, what they get in a fresh process.

``python contract_requests.py CASE...`` prints a line of JSON with the digests of each case.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

from engine_trace import News, Trace, alone, everything
from headstream.model.outputs import (
    LogitsSpec,
    Outputs,
    PoolSpec,
    RowsSpec,
    SamplingParams,
    ScoreSpec,
)
from tiny_models import D_VOCAB, ENCODERS


def text(seed: int, length: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(D_VOCAB) for _ in range(length)]


PROMPT = text(0, 600)  # two chunks of the grid and a rest
REQUESTS: dict[str, dict[str, Any]] = {
    "generate": {
        "token_ids": PROMPT,
        "max_new_tokens": 40,
        "sampling": SamplingParams(temperature=1.5, top_p=0.95, frequency_penalty=8.0, seed=5),
        "outputs": Outputs(
            logits=LogitsSpec("full"), logprob=True, rows=RowsSpec(generated_layers=(0, 1, 3, -1))
        ),
    },
    "score": {
        "token_ids": PROMPT,
        "outputs": Outputs(score=ScoreSpec(520, LogitsSpec("full"))),
    },
    "pool": {
        "token_ids": PROMPT,
        "outputs": Outputs(pool=PoolSpec(2, "mean", (tuple(range(550, 600)), (599,)))),
    },
    "read": {"token_ids": PROMPT, "outputs": everything("embed", 600)},
}
READINGS = {name: REQUESTS[name] for name in ("pool", "read")}
"""What an encoder can do."""


class Case(NamedTuple):
    """A checkpoint, and what computes it."""

    family: str
    directory: str
    cache_dir: str
    dtype: str
    kernels: str  # native | torch

    @property
    def requests(self) -> dict[str, dict[str, Any]]:
        """What is asked for, by name."""
        return READINGS if self.family in ENCODERS else REQUESTS

    def trace(self, **settings: Any) -> Trace:
        """An engine core, with the kernels that are found here."""
        return Trace(Path(self.directory), Path(self.cache_dir), dtype=self.dtype, **settings)

    def alone(self) -> list[News]:
        """What each request gets by itself."""
        return alone(self.trace(prefix_caching=False), [*self.requests.values()])


def digest(news: News) -> str:
    """Equal for equal bits, across processes."""
    parts = (
        news.token_ids,
        [row.tobytes() for row in news.logits],
        sorted(news.rows.items()),
        news.vectors,
        sorted(news.scores.items()),
        sorted(news.score_logits.items()),
        news.finish,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def main() -> None:
    path = os.environ["PATH"]
    for argument in sys.argv[1:]:
        case = Case(*json.loads(argument))
        # Without a compiler to be found there are no native kernels.
        os.environ["PATH"] = path if case.kernels == "native" else ""
        sys.stdout.write(json.dumps([digest(news) for news in case.alone()]) + "\n")


if __name__ == "__main__":
    main()
