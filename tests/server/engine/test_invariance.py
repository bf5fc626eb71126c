"""The same request gives the same bits alone, in any crowd, cut anyhow, and after preemption."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from engine_trace import D_VOCAB, DTYPES, Trace, alone, everything, same
from headstream.model.outputs import Outputs, SamplingParams


def _request(rng: random.Random) -> dict[str, Any]:
    length = rng.choice([1, 2, 5, 17, 63, 255, 256, 257, 300, 511, 700])
    prompt = [rng.randrange(D_VOCAB) for _ in range(length)]
    if rng.random() < 0.3:
        return {"token_ids": prompt, "outputs": everything("embed", length)}
    sampling = SamplingParams()
    if rng.random() < 0.5:
        sampling = SamplingParams(
            temperature=1.3, top_k=40, top_p=0.9, repetition_penalty=1.1, seed=rng.randrange(99)
        )
    return {
        "token_ids": prompt,
        "max_new_tokens": rng.choice([1, 3, 20, 40]),
        "sampling": sampling,
        "outputs": everything("generate", length),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_crowd_equals_alone(tiny_gemma: Path, cache_dir: Path, dtype: str, seed: int) -> None:
    """Random lengths, arrivals and aborts under a small budget, with one thread and with two."""
    rng = random.Random(seed)
    requests = [_request(rng) for _ in range(24)]
    lone = alone(
        Trace(
            tiny_gemma, cache_dir, dtype=dtype, max_num_batched_tokens=2048, num_threads=seed + 1
        ),
        requests,
    )
    crowd = Trace(
        tiny_gemma,
        cache_dir,
        dtype=dtype,
        max_num_batched_tokens=300,
        max_num_seqs=9,
        num_threads=seed + 1,
    )
    ids: list[int] = []
    aborted: set[int] = set()
    for request in requests:
        ids.append(crowd.submit(**request))
        for _ in range(rng.randrange(4)):
            crowd.core.step()
            crowd.scheduler.check_integrity()
        if rng.random() < 0.2:
            victim = rng.choice(ids)
            aborted.add(victim)
            _abort(crowd, victim)
    crowd.run()
    assert crowd.scheduler.num_blocks_used == 0
    survivors = [i for i, sequence_id in enumerate(ids) if sequence_id not in aborted]
    assert len(survivors) > 12
    for i in survivors:
        assert same(crowd.news[ids[i]], lone[i]), f"request {i} differs"


@pytest.mark.parametrize("dtype", DTYPES)
def test_preemption_changes_no_bit(tiny_gemma: Path, cache_dir: Path, dtype: str) -> None:
    """A pool too small for all: sequences are evicted, computed again, and none is lost."""
    rng = random.Random(5)
    requests: list[dict[str, Any]] = [
        {
            "token_ids": [rng.randrange(D_VOCAB) for _ in range(rng.choice([100, 260, 300]))],
            "max_new_tokens": 120,
            "outputs": everything("generate", 0),
        }
        for _ in range(8)
    ]
    lone = alone(Trace(tiny_gemma, cache_dir, dtype=dtype), requests)
    roomy = Trace(tiny_gemma, cache_dir, dtype=dtype)
    tight = Trace(tiny_gemma, cache_dir, dtype=dtype, kv_cache_bytes=30 * roomy.block_bytes)
    ids = [tight.submit(**request) for request in requests]
    tight.run()
    assert tight.scheduler.preemptions > 3
    assert tight.scheduler.num_blocks_used == 0
    for sequence_id, expected in zip(ids, lone, strict=True):
        assert same(tight.news[sequence_id], expected)


@pytest.mark.usefixtures("torch_kernels")
def test_a_crowd_can_differ_where_the_rule_is_broken(tiny_gemma: Path, cache_dir: Path) -> None:
    """Negative control: prompts cut off the grid change bits, so the tests above can fail."""
    from headstream.server.engine import sequence as module

    prompt = [i % D_VOCAB for i in range(200)]
    outputs = Outputs(rows=everything("embed", 200).rows)
    whole = Trace(tiny_gemma, cache_dir)
    first = whole.submit(prompt, outputs=outputs)
    whole.run()
    cut = Trace(tiny_gemma, cache_dir)
    second = cut.submit(prompt, outputs=outputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PREFILL_GRID", 7)
        patch.setattr(cut.scheduler, "_budget", 63)
        cut.run()
    assert whole.news[first].rows.keys() == cut.news[second].rows.keys()
    assert whole.news[first].rows != cut.news[second].rows


def _abort(trace: Trace, sequence_id: int) -> None:
    from headstream.server.engine.messages import Abort

    trace.core.handle(Abort(sequence_id))
