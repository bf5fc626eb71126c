"""Attention weights, and their rollout, against transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract_requests import text
from engine_trace import News, Trace
from every_site import LAYERS
from headstream.model.sites import PatternSpec, SiteSpec, TraceSpec
from headstream.server.engine import pattern_views
from headstream.server.engine.look import Look
from site_oracle import SiteOracle
from tiny_models import DECODERS, ENCODERS

LENGTH = 300
TEXT = text(5, LENGTH)
HEADS = (0, 1, 2, 3)
EVERYTHING = PatternSpec(LAYERS, HEADS, tuple(range(LENGTH)))


def patterns_of(directory: Path) -> dict[int, NDArray[Any]]:
    """Of transformers, layer -> [H, n, n]."""
    oracle = SiteOracle(directory).run(TEXT)
    return {
        layer: oracle.values["pattern", layer].transpose(0, 1)[..., :LENGTH].numpy()
        for layer in LAYERS
    }


def ask(directory: Path, cache_dir: Path, spec: PatternSpec) -> News:
    trace = Trace(directory, cache_dir, max_num_batched_tokens=330, max_num_seqs=4)
    asked = trace.submit(TEXT, look=Look(attention=spec))
    trace.run()
    assert trace.news[asked].finish == "length"
    assert trace.scheduler.num_blocks_used == 0
    return trace.news[asked]


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_weights_equal_transformers(family: str, gentle: dict[str, Path], cache_dir: Path) -> None:
    theirs = patterns_of(gentle[family])
    news = ask(gentle[family], cache_dir, EVERYTHING)
    assert news.patterns.keys() == {(layer, query) for layer in LAYERS for query in range(LENGTH)}
    for (layer, query), weights in news.patterns.items():
        np.testing.assert_allclose(weights, theirs[layer][:, query], atol=1e-5)
        np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
        if family in DECODERS:
            assert (weights[:, query + 1 :] == 0.0).all()


def test_a_selection_of_heads_and_queries(gentle: dict[str, Path], cache_dir: Path) -> None:
    theirs = patterns_of(gentle["gemma3"])
    spec = PatternSpec((1, 3), (0, 2), (0, 7, 255, 256, 299))
    news = ask(gentle["gemma3"], cache_dir, spec)
    assert news.patterns.keys() == {(layer, query) for layer in (1, 3) for query in spec.queries}
    for (layer, query), weights in news.patterns.items():
        np.testing.assert_allclose(weights, theirs[layer][[0, 2], query], atol=1e-5)


def test_heads_are_averaged(gentle: dict[str, Path], cache_dir: Path) -> None:
    theirs = patterns_of(gentle["llama"])
    spec = replace(EVERYTHING, heads=(1, 2, 3), average_heads=True)
    for (layer, query), weights in ask(gentle["llama"], cache_dir, spec).patterns.items():
        mean = theirs[layer][1:, query].mean(0, keepdims=True)
        np.testing.assert_allclose(weights, mean, atol=1e-5)


def test_the_largest_weights_come_first(gentle: dict[str, Path], cache_dir: Path) -> None:
    theirs = patterns_of(gentle["gemma3"])
    news = ask(gentle["gemma3"], cache_dir, replace(EVERYTHING, top_k=5))
    for (layer, query), weights in news.patterns.items():
        largest = -np.sort(-theirs[layer][:, query], axis=-1)[:, :5]
        np.testing.assert_allclose(weights, largest, atol=1e-5)
        keys = news.pattern_keys[layer, query]
        assert all(len(set(own)) == 5 for own in keys.tolist())
        at_keys = np.take_along_axis(theirs[layer][:, query], keys.astype(np.int64), axis=-1)
        np.testing.assert_allclose(weights, at_keys, atol=1e-5)


def test_a_fault_ends_the_sequence_alone(
    gentle: dict[str, Path], cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace(gentle["gemma3"], cache_dir)
    asked = trace.submit(TEXT, look=Look(attention=EVERYTHING))
    beside = trace.submit(TEXT, 5)

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(pattern_views, "attention_scores", fail)
    trace.run()
    assert trace.news[asked].finish == "error"
    assert "no memory" in trace.news[asked].error
    assert len(trace.news[beside].token_ids) == 5
    assert trace.scheduler.num_blocks_used == 0


def test_queries_behind_the_prompt_are_refused(gentle: dict[str, Path], cache_dir: Path) -> None:
    trace = Trace(gentle["gemma3"], cache_dir)
    refused = trace.submit([1, 2, 3], look=Look(attention=PatternSpec((1,), (0,), (3,))))
    trace.run()
    assert "queries: 3 is not in [0, 2]" in trace.news[refused].error


@pytest.mark.parametrize("queries", [(0, 5, 250, 256, 299), (0, 5)])
@pytest.mark.parametrize("family", ["gemma3", "bert"])
def test_rollout(
    family: str, queries: tuple[int, ...], gentle: dict[str, Path], cache_dir: Path
) -> None:
    """Abnar and Zuidema 2020: the products of (A + I) / 2, whatever the chunks are."""
    theirs = patterns_of(gentle[family])
    rolled = np.eye(LENGTH)
    for layer in LAYERS:
        mixed = (theirs[layer].mean(0) + np.eye(LENGTH)) / 2
        rolled = mixed / mixed.sum(1, keepdims=True) @ rolled
    news = ask(gentle[family], cache_dir, replace(EVERYTHING, queries=queries, rollout=True))
    assert news.patterns.keys() == {(0, query) for query in queries}
    for (_, query), weights in news.patterns.items():
        np.testing.assert_allclose(weights[0], rolled[query], atol=1e-5)
        np.testing.assert_allclose(weights.sum(), 1.0, atol=1e-5)


def test_beside_a_trace_of_more_positions(gentle: dict[str, Path], cache_dir: Path) -> None:
    """Keys of later positions than these queries see are there for others to look at."""
    spec = replace(EVERYTHING, queries=(0, 7))
    alone = ask(gentle["gemma3"], cache_dir, spec)
    trace = Trace(gentle["gemma3"], cache_dir, max_num_batched_tokens=330, max_num_seqs=4)
    keys = TraceSpec((SiteSpec("k", LAYERS, (0, 1)),))
    asked = trace.submit(TEXT, look=Look(keys, spec))
    trace.run()
    news = trace.news[asked]
    assert news.finish == "length", news.error
    assert len(news.sites) == len(LAYERS) * LENGTH
    assert news.patterns.keys() == alone.patterns.keys()
    for place, weights in news.patterns.items():
        assert weights.tobytes() == alone.patterns[place].tobytes()
