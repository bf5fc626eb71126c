"""A request gets the same bits from a cold cache, a warm one, an evicted one and a shared one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract_requests import text
from engine_crowd import check_same, crowd
from engine_trace import DTYPES, Trace, alone, everything, same
from headstream.model.outputs import Outputs, PoolSpec, RowsSpec, SamplingParams
from headstream.server.engine import prefix_cache

GENERATE = everything("generate", 0)


def cold(directory: Path, cache_dir: Path, **settings: Any) -> Trace:
    """An engine that shares nothing."""
    return Trace(directory, cache_dir, prefix_caching=False, **settings)


def _request(rng: random.Random, bases: list[list[int]]) -> dict[str, Any]:
    """A prompt that begins like others, and outputs of every kind."""
    shared = rng.choice([0, 100, 255, 256, 257, 512, 600, 768])
    prompt = rng.choice(bases)[:shared] + text(rng.randrange(4), rng.choice([1, 40, 256, 300]))
    end = len(prompt)
    kind = rng.random()
    if kind < 0.2:
        return {"token_ids": prompt, "outputs": everything("embed", end)}
    if kind < 0.35:
        spans = ((end - 1,), tuple(range(end // 2, end)))
        return {"token_ids": prompt, "outputs": Outputs(pool=PoolSpec(2, "mean", spans))}
    if kind < 0.45:
        outputs = Outputs(rows=RowsSpec(prompt_layers=(1,), generated_layers=(-1,)))
        return {"token_ids": prompt, "max_new_tokens": 5, "outputs": outputs}
    sampling = SamplingParams()
    if rng.random() < 0.5:
        sampling = SamplingParams(temperature=1.3, repetition_penalty=1.1, seed=rng.randrange(99))
    return {
        "token_ids": prompt,
        "max_new_tokens": rng.choice([1, 5, 90]),
        "sampling": sampling,
        "outputs": GENERATE,
    }


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", [170, 40])
def test_shared_prefixes_change_no_bit(
    tiny_gemma: Path, cache_dir: Path, dtype: str, blocks: int
) -> None:
    """Random arrivals and aborts; with few blocks, evictions and preemptions too."""
    rng = random.Random(blocks)
    bases = [text(10 + i, 800) for i in range(2)]
    requests = [_request(rng, bases) for _ in range(30)]
    lone_trace = cold(tiny_gemma, cache_dir, dtype=dtype, max_num_batched_tokens=2048)
    lone = alone(lone_trace, requests)
    trace = Trace(
        tiny_gemma,
        cache_dir,
        dtype=dtype,
        max_num_batched_tokens=600,
        max_num_seqs=9,
        kv_cache_bytes=blocks * lone_trace.block_bytes,
    )
    check_same(crowd(trace, requests, rng, most_steps=4), lone, at_least=21)
    assert trace.scheduler.hit_tokens > 2000
    if blocks == 40:
        assert trace.chunks_evicted > 10
        assert trace.scheduler.preemptions > 3


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("dtype", DTYPES)
def test_cold_hit_and_computed_again_are_the_same(
    tiny_gemma: Path, cache_dir: Path, dtype: str
) -> None:
    """One request five times: cold, hit, after eviction of all, of the end, and hit again."""
    request: dict[str, Any] = {
        "token_ids": text(0, 700),
        "max_new_tokens": 20,
        "outputs": GENERATE,
    }
    [expected] = alone(cold(tiny_gemma, cache_dir, dtype=dtype), [request])
    trace = Trace(tiny_gemma, cache_dir, dtype=dtype)
    cache = trace.scheduler.cache
    rows = 700 + 20  # the row of the last token is wanted too
    for evict, computed in [(0, rows), (0, rows - 512), (16, rows), (1, rows - 256), (0, 208)]:
        cache.evict(evict)
        before = trace.rows_computed
        [news] = alone(trace, [request])
        assert trace.rows_computed - before == computed
        assert same(news, expected)


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_preempted_sequence_finds_its_own_chunks(
    tiny_gemma: Path, cache_dir: Path, dtype: str
) -> None:
    """Two texts that share nothing, in memory too small for both: every hit is with oneself."""
    requests: list[dict[str, Any]] = [
        {"token_ids": text(0, 300), "max_new_tokens": 100, "outputs": GENERATE},
        {"token_ids": text(1, 600), "max_new_tokens": 60, "outputs": GENERATE},
    ]
    reference = cold(tiny_gemma, cache_dir, dtype=dtype)
    lone = alone(reference, requests)
    trace = Trace(tiny_gemma, cache_dir, dtype=dtype, kv_cache_bytes=30 * reference.block_bytes)
    ids = [trace.submit(**request) for request in requests]
    trace.run()
    assert trace.scheduler.preemptions > 0
    assert trace.scheduler.hit_tokens > 0
    for sequence_id, expected in zip(ids, lone, strict=True):
        assert same(trace.news[sequence_id], expected)


def test_a_failed_step_leaves_nothing_to_share(
    tiny_gemma: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks enter the cache when they are computed, not when they are scheduled."""
    request: dict[str, Any] = {"token_ids": text(0, 600), "max_new_tokens": 3, "outputs": GENERATE}
    [expected] = alone(cold(tiny_gemma, cache_dir), [request])
    trace = Trace(tiny_gemma, cache_dir)

    def explode(_: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(trace.runner, "run", explode)
        [failed] = alone(trace, [request])
    assert failed.finish == "error"
    assert trace.scheduler.pool.num_used == 0
    [news] = alone(trace, [request])
    assert trace.scheduler.hit_tokens == 0
    assert same(news, expected)


def test_a_corrupted_chunk_is_noticed(tiny_gemma: Path, cache_dir: Path) -> None:
    """Negative control: a cached block that was written to changes what comes out of a hit."""
    request: dict[str, Any] = {"token_ids": text(0, 300), "max_new_tokens": 5, "outputs": GENERATE}
    trace = Trace(tiny_gemma, cache_dir)
    [expected] = alone(trace, [request])
    [blocks] = trace.scheduler.cache._chunks.values()
    keys, _ = trace.runner.cache.layer(1)  # [blocks, block_size, G, D]
    keys[blocks[-1]] += 0.5
    [news] = alone(trace, [request])
    assert trace.scheduler.hit_tokens == 256
    assert not same(news, expected)


def test_keys_need_the_chunks_before(
    tiny_gemma: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: keyed by its own tokens alone, a chunk of another text is taken."""
    a, b, c, d, tail = (text(i, 256) for i in range(5))
    requests: list[dict[str, Any]] = [
        {"token_ids": prompt + tail[:40], "max_new_tokens": 5, "outputs": GENERATE}
        for prompt in (a + c, b + d, b + c)
    ]
    lone = alone(cold(tiny_gemma, cache_dir), requests)
    chained = Trace(tiny_gemma, cache_dir)
    assert all(map(same, alone(chained, requests), lone))
    assert chained.scheduler.hit_tokens == 256

    def orphans(token_ids: Any, size: int, _: bytes) -> Iterator[bytes]:
        for end in range(size, len(token_ids) + 1, size):
            yield hashlib.blake2b(token_ids[end - size : end].tobytes()).digest()

    monkeypatch.setattr(prefix_cache, "_chain", orphans)
    unchained = Trace(tiny_gemma, cache_dir)
    assert list(map(same, alone(unchained, requests), lone)) == [True, True, False]
    assert unchained.scheduler.hit_tokens == 512


@pytest.mark.usefixtures("torch_kernels")
def test_hits_need_the_grid(
    tiny_gemma: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: with torch's operators a hit that ends off the grid changes bits."""
    base = text(0, 200)
    requests: list[dict[str, Any]] = [
        {"token_ids": base[:shared] + text(shared, 80), "max_new_tokens": 5, "outputs": GENERATE}
        for shared in (200, 190, 100)
    ]
    lone = alone(cold(tiny_gemma, cache_dir), requests)
    monkeypatch.setattr(prefix_cache, "PREFILL_GRID", 32)
    trace = Trace(tiny_gemma, cache_dir)
    news = alone(trace, requests)
    assert trace.scheduler.hit_tokens == 160 + 96
    assert not all(map(same, news, lone))
