"""Requests as they come in life: at random moments, some of them given up."""

from __future__ import annotations

import random
from typing import Any

from engine_trace import News, Trace, same
from headstream.server.engine.messages import Abort


def crowd(
    trace: Trace,
    requests: list[dict[str, Any]],
    rng: random.Random,
    *,
    most_steps: int = 3,
    aborts: float = 0.15,
) -> list[News]:
    """What each request gets that arrives up to ``most_steps`` steps behind the one before.

    ``aborts``: how often an arrival makes another leave. Nothing is held afterwards.
    """
    ids: list[int] = []
    for request in requests:
        ids.append(trace.submit(**request))
        for _ in range(rng.randint(0, most_steps)):
            trace.step()
        if rng.random() < aborts:
            trace.core.handle(Abort(rng.choice(ids)))
    trace.run()
    assert trace.scheduler.num_blocks_used == 0
    return [trace.news[sequence_id] for sequence_id in ids]


def check_same(crowd: list[News], lone: list[News], *, at_least: int) -> None:
    """Those that came to their end, ``at_least`` so many, got the bits that they get alone."""
    ended = [i for i, news in enumerate(crowd) if news.finish is not None]
    assert len(ended) >= at_least
    for i in ended:
        assert same(crowd[i], lone[i]), f"request {i} differs"
