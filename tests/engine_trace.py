"""Helpers to drive an engine core by hand: submits, steps, collected news."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstream.model.kernels.onednn import bf16_is_fast
from headstream.model.outputs import LogitsSpec, Outputs, PoolSpec, RowsSpec
from headstream.model.sites import SiteName
from headstream.server.engine.build import build
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.core import EngineCore
from headstream.server.engine.credit import CREDIT_BYTES
from headstream.server.engine.frame import Frame
from headstream.server.engine.look import Seen
from headstream.server.engine.messages import (
    Delta,
    Flow,
    Fork,
    FromEngine,
    Scores,
    Sibling,
    StepReport,
    Submit,
)
from headstream.server.engine.report import Frames

DTYPES = [
    "float32",
    pytest.param(
        "bfloat16",
        marks=pytest.mark.skipif(not bf16_is_fast(), reason="no bfloat16 hardware here"),
    ),
]

PLENTY = 1 << 40
"""Credit of a reader who keeps up."""


@dataclass
class News:
    """Everything one sequence reported."""

    token_ids: list[int] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    logit_rows: list[tuple[int, bytes]] = field(default_factory=list)  # of a branch: position, row
    rows: dict[tuple[int, int], bytes] = field(default_factory=dict)  # (layer, position) -> row
    vectors: bytes | None = None
    scores: dict[int, bytes] = field(default_factory=dict)  # position -> log-probability, rank...
    score_logits: dict[int, bytes] = field(default_factory=dict)  # position -> row, and its ids
    sites: dict[tuple[SiteName, int, int], np.ndarray] = field(
        default_factory=dict
    )  # (site, layer, position) -> row
    patterns: dict[tuple[int, int], np.ndarray] = field(
        default_factory=dict
    )  # (layer, query) -> [heads, keys]
    pattern_keys: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    lens: dict[tuple[int, int], tuple[bytes, bytes]] = field(
        default_factory=dict
    )  # (layer, position) -> logits, ids
    finish: str | None = None
    error: str = ""


class Trace:
    """An engine core without sockets: submit, step, look."""

    def __init__(self, directory: Path, cache_dir: Path, **changes: Any) -> None:
        settings: dict[str, Any] = {"dtype": "float32", "kv_cache_bytes": 4 << 20, "num_threads": 1}
        config = EngineConfig(
            name="tiny", source=str(directory), cache_dir=str(cache_dir), **(settings | changes)
        )
        self.runner, self.scheduler, self.ready = build(config, lambda *_: None)
        self.core = EngineCore(self.runner, self.scheduler, self._take)
        self.news: dict[int, News] = {}
        self.reports: list[StepReport] = []
        self.chunks_evicted = 0
        self._ids = itertools.count(1)

    @property
    def rows_computed(self) -> int:
        """N of all steps so far."""
        return sum(report.stats.num_tokens for report in self.reports)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return self.runner.cache.num_bytes // self.ready.blocks_total

    def _take(self, message: FromEngine, frames: Frames) -> None:
        assert isinstance(message, StepReport)
        self.reports.append(message)
        for delta in message.deltas:
            self._take_delta(delta, [bytes(buffer) for buffer in frames.buffers])

    def _take_delta(self, delta: Delta, frames: list[bytes]) -> None:
        news = self.news[delta.id]
        assert news.finish is None, "news after the end"
        if delta.token is not None:
            assert delta.token.index == len(news.token_ids)
            news.token_ids.append(delta.token.token_id)
            if delta.token.logits is not None:
                news.logits.append(_array(delta.token.logits, frames))
        for rows in delta.rows:
            count = rows.values.shape[0]
            data = frames[rows.values.index]
            width = len(data) // count
            for i in range(count):
                key = (rows.layer, rows.start + i)
                assert key not in news.rows, "a row was sent twice"
                news.rows[key] = data[i * width : (i + 1) * width]
        news.logit_rows += [(row.position, frames[row.values.index]) for row in delta.logit_rows]
        if delta.vectors is not None:
            news.vectors = frames[delta.vectors.index]
        if delta.scores is not None:
            _take_scores(news, delta.scores, frames)
        if delta.seen is not None:
            _take_seen(news, delta.seen, frames)
        news.finish, news.error = delta.finish, delta.error
        sequence = self.scheduler.get(delta.id)
        if sequence is not None and sequence.credit_bytes == CREDIT_BYTES:  # no test has set it
            self.core.handle(Flow(delta.id, PLENTY))

    def submit(self, token_ids: list[int], max_new_tokens: int = 0, **spec: Any) -> int:
        """Hand a sequence to the core; its id. ``spec``: what else a :class:`Submit` takes."""
        sequence_id = next(self._ids)
        self.news[sequence_id] = News([*spec.get("output_ids", ())])
        self.core.handle(Submit(sequence_id, tuple(token_ids), max_new_tokens, **spec))
        return sequence_id

    def submit_all(
        self, token_ids: list[int], max_new_tokens: int, seeds: list[int], **spec: Any
    ) -> list[int]:
        """Several continuations of a prompt; their ids. ``seeds``: of all but the first."""
        ids = [next(self._ids) for _ in seeds]
        self.news |= {sibling_id: News() for sibling_id in ids}
        siblings = tuple(map(Sibling, ids, seeds))
        return [self.submit(token_ids, max_new_tokens, siblings=siblings, **spec), *ids]

    def fork(self, branch_id: int) -> int:
        """Copy a branch; the id of the copy."""
        twin_id = next(self._ids)
        self.news[twin_id] = News()
        self.core.handle(Fork(branch_id, twin_id))
        return twin_id

    def step(self) -> None:
        """One step, after which the pool is as it must be."""
        chunks = self.scheduler.cache._chunks
        before = set(chunks)
        self.core.step()
        self.scheduler.check_integrity()
        self.chunks_evicted += len(before - chunks.keys())

    def run(self, max_steps: int = 5000) -> None:
        """Step until nothing is left to do."""
        for _ in range(max_steps):
            if not self.core.has_work:
                break
            self.step()
        assert not self.core.has_work, "the engine does not come to an end"


def alone(trace: Trace, requests: list[dict[str, Any]]) -> list[News]:
    """What each request gets when it runs by itself."""
    lone: list[News] = []
    for request in requests:
        sequence_id = trace.submit(**request)
        trace.run()
        lone.append(trace.news[sequence_id])
    return lone


def same(one: News, other: News) -> bool:
    """Whether two requests got the same tokens, and the same bits of everything else."""
    return (
        one.token_ids == other.token_ids
        and all(a.tobytes() == b.tobytes() for a, b in zip(one.logits, other.logits, strict=True))
        and one.rows == other.rows
        and one.vectors == other.vectors
        and one.scores == other.scores
        and one.score_logits == other.score_logits
        and _same_arrays(one.sites, other.sites)
        and _same_arrays(one.patterns, other.patterns)
        and _same_arrays(one.pattern_keys, other.pattern_keys)
        and one.lens == other.lens
        and one.finish == other.finish
    )


def everything(kind: str, prompt_length: int) -> Outputs:
    """Outputs that look at many places at once."""
    if kind == "embed":
        return Outputs(
            rows=RowsSpec(prompt_layers=(0, 2, -1)),
            pool=PoolSpec(3, "mean", (tuple(range(prompt_length)), (0,))),
        )
    return Outputs(
        logits=LogitsSpec("full"),
        logprob=True,
        rows=RowsSpec(generated_layers=(1, -1)),
    )


def _same_arrays(one: dict[Any, np.ndarray], other: dict[Any, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].shape == other[key].shape and one[key].tobytes() == other[key].tobytes()
        for key in one
    )


def _take_seen(news: News, seen: Seen, frames: list[bytes]) -> None:
    for site in seen.sites:
        for layer, rows in zip(site.layers, _array(site.values, frames), strict=True):
            for i, row in enumerate(rows):
                place = (site.site, layer, site.start + i)
                assert place not in news.sites, "a row of a site was sent twice"
                news.sites[place] = row
    for pattern in seen.patterns:
        weights = _array(pattern.weights, frames)  # [heads, n, K]
        keys = np.frombuffer(pattern.keys, np.int32)
        for i, query in enumerate(pattern.queries):
            assert (pattern.layer, query) not in news.patterns, "a query was sent twice"
            news.patterns[pattern.layer, query] = weights[:, i]
            if keys.size:
                news.pattern_keys[pattern.layer, query] = keys.reshape(weights.shape)[:, i]
    for read in seen.lens:
        count = read.logits.shape[0]
        for i in range(count):
            key = (read.layer, read.start + i)
            assert key not in news.lens, "a row of the lens was sent twice"
            parts = (frames[read.logits.index], read.logits_ids)
            news.lens[key] = (_part(parts[0], i, count), _part(parts[1], i, count))


def _take_scores(news: News, scores: Scores, frames: list[bytes]) -> None:
    values = _array(scores.values, frames)  # [3, n]
    count = values.shape[1]
    logits = b"" if scores.logits is None else frames[scores.logits.index]
    for i in range(count):
        assert scores.start + i not in news.scores, "a position was sent twice"
        news.scores[scores.start + i] = values[:, i].tobytes()
        if scores.logits is not None:
            parts = (_part(data, i, count) for data in (logits, scores.logits_ids))
            news.score_logits[scores.start + i] = b"".join(parts)


def _part(data: bytes, index: int, count: int) -> bytes:
    width = len(data) // count
    return data[index * width : (index + 1) * width]


def _array(frame: Frame, frames: list[bytes]) -> np.ndarray:
    assert frame.dtype == "float32"
    return np.frombuffer(frames[frame.index], np.float32).reshape(frame.shape)
