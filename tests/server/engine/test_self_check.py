"""The check of batch invariance at start, and what the pool must hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine_trace import DTYPES, Trace
from headstream.model.batch import FINAL, PackedBatch, StepOutput
from headstream.server.engine.invariance import is_batch_invariant
from headstream.server.wire.model import to_fingerprint


def test_it_holds_and_leaves_the_pool_empty(tiny_gemma: Path, cache_dir: Path) -> None:
    trace = Trace(tiny_gemma, cache_dir)
    assert trace.ready.batch_invariant
    assert trace.scheduler.pool.num_used == 0


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_holds_with_int8_weights(dtype: str, tiny_gemma: Path, cache_dir: Path) -> None:
    plain = Trace(tiny_gemma, cache_dir, dtype=dtype)
    rounded = Trace(tiny_gemma, cache_dir, dtype=dtype, quantization="int8")
    assert rounded.ready.batch_invariant
    assert (plain.ready.quantization, rounded.ready.quantization) == ("none", "int8")
    fingerprints = [to_fingerprint("tiny", trace.ready) for trace in (plain, rounded)]
    assert fingerprints[0] != fingerprints[1]


def test_it_notices_a_row_that_depends_on_its_crowd(
    tiny_gemma: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the smallest difference, in one row, when the batch is large."""
    trace = Trace(tiny_gemma, cache_dir)
    run = trace.runner.run

    def drift(batch: PackedBatch) -> StepOutput:
        output = run(batch)
        rows = output.taps[FINAL].clone()
        if len(batch.input_ids) > 15:
            rows[2, 3] = rows[2, 3].nextafter(rows[2, 3] + 1)
        return replace(output, taps={FINAL: rows})

    monkeypatch.setattr(trace.runner, "run", drift)
    assert not is_batch_invariant(trace.runner, trace.scheduler.pool)


def test_a_pool_too_small_for_a_prompt_is_refused(tiny_gemma: Path, cache_dir: Path) -> None:
    trace = Trace(tiny_gemma, cache_dir)
    block = trace.runner.cache.num_bytes // trace.ready.blocks_total
    assert Trace(tiny_gemma, cache_dir, kv_cache_bytes=16 * block).ready.blocks_total == 16
    with pytest.raises(ValueError, match=f"at least {16 * block}"):
        Trace(tiny_gemma, cache_dir, kv_cache_bytes=16 * block - 1)
