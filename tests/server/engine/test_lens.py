"""The logit lens: the real final norm and unembedding over rows of every layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contract_requests import text
from engine_trace import DTYPES, Trace
from headstream.model.outputs import LogitsSpec, Outputs, RowsSpec, ScoreSpec
from headstream.model.sites import LensSpec, SiteSpec, TraceSpec
from headstream.server.engine.look import Look
from headstream.server.engine.messages import Abort
from site_oracle import SiteOracle
from tiny_models import DECODERS

FULL = LogitsSpec("full")


@pytest.mark.parametrize("family", DECODERS)
def test_rows_of_every_layer_equal_transformers(
    family: str, gentle: dict[str, Path], cache_dir: Path
) -> None:
    trace = Trace(gentle[family], cache_dir)
    ids = text(5, 50)
    asked = trace.submit(ids, look=Look(lens=LensSpec((0, 1, 2, 3), 3, 50, FULL)))
    trace.run()
    lens = trace.news[asked].lens
    assert trace.news[asked].finish == "length"
    assert lens.keys() == {(layer, i) for layer in range(4) for i in range(3, 50)}
    oracle = SiteOracle(gentle[family]).run(ids)
    for layer in range(4):
        resid = oracle.values[("resid_pre", 1) if layer == 0 else ("resid_post", layer)]
        theirs = oracle.read(resid).numpy()
        for i in range(3, 50):
            ours = np.frombuffer(lens[layer, i][0], np.float32)
            np.testing.assert_allclose(ours, theirs[i], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", DECODERS)
def test_the_last_layer_is_what_is_served(
    family: str, dtype: str, gentle: dict[str, Path], cache_dir: Path
) -> None:
    """To the bit, against scores, which are served from the same rows."""
    trace = Trace(gentle[family], cache_dir, dtype=dtype)
    ids = text(5, 300)
    for spec in (FULL, LogitsSpec("top", 7, logprobs=True), LogitsSpec("chosen", 0, (5, 2, 99))):
        asked = trace.submit(ids, look=Look(lens=LensSpec((1, 3), 0, 300, spec)))
        scored = trace.submit(ids, outputs=Outputs(score=ScoreSpec(1, spec)))
        trace.run()
        served = trace.news[scored].score_logits  # of the token behind each row
        lens = trace.news[asked].lens
        assert {position: b"".join(lens[3, position - 1]) for position in served} == served
        assert len(served) == 299
        assert lens[1, 5] != lens[3, 5]


def test_few_rows_are_read_in_a_step_that_others_wait_for(
    gentle: dict[str, Path], cache_dir: Path
) -> None:
    trace = Trace(gentle["gemma3"], cache_dir)
    asked = trace.submit(text(5, 200), look=Look(lens=LensSpec((1, 2, 3), 0, 200, FULL)))
    beside = trace.submit(text(6, 10), 12)
    seen = 0
    while trace.news[beside].finish is None:
        trace.step()
        assert len(trace.news[asked].lens) - seen <= 32
        seen = len(trace.news[asked].lens)
    assert 0 < seen < 600
    before = len(trace.reports)
    trace.run()
    assert len(trace.news[asked].lens) == 600
    assert len(trace.reports) - before == -(-(600 - seen) // 128)
    assert trace.news[asked].finish == "length"
    assert trace.scheduler.num_blocks_used == 0


def test_rows_that_wait_survive_a_preemption_and_a_pause(
    gentle: dict[str, Path], cache_dir: Path
) -> None:
    trace = Trace(gentle["gemma3"], cache_dir)
    look = Look(TraceSpec((SiteSpec("z", (2,), (0,)),)), lens=LensSpec((1, 3), 0, 300, FULL))
    lone = trace.submit(text(5, 300), look=look)
    trace.run()
    asked = trace.submit(text(5, 300), look=look)
    trace.step()
    trace.step()
    sequence = trace.scheduler.get(asked)
    assert sequence is not None
    trace.scheduler.pause(sequence, paused=True)
    assert not trace.core.has_work
    trace.scheduler._holders.preempt(sequence)
    trace.scheduler.pause(sequence, paused=False)
    trace.run()
    assert trace.news[asked].lens == trace.news[lone].lens
    assert trace.news[asked].sites.keys() == trace.news[lone].sites.keys()
    gone = trace.submit(text(5, 300), look=look)
    trace.step()
    trace.core.handle(Abort(gone))
    trace.run()
    assert trace.news[gone].finish is None
    assert not trace.core._lenses._line


def test_a_fault_ends_the_sequence_alone(
    gentle: dict[str, Path], cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace(gentle["gemma3"], cache_dir)
    asked = trace.submit(text(5, 9), look=Look(lens=LensSpec((1,), 0, 9, FULL)))
    beside = trace.submit(text(6, 10), 12)

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(trace.runner, "read", fail)
    trace.run()
    assert trace.news[asked].finish == "error"
    assert "no memory" in trace.news[asked].error
    assert len(trace.news[beside].token_ids) == 12


def test_rows_that_wait_keep_no_others(gentle: dict[str, Path], cache_dir: Path) -> None:
    """A reader may hold them up for long."""
    trace = Trace(gentle["gemma3"], cache_dir)
    asked = trace.submit(text(5, 100), look=Look(lens=LensSpec((1,), 0, 40, FULL)))
    trace.submit(text(6, 60), outputs=Outputs(rows=RowsSpec(prompt_layers=(1,))))
    trace.step()
    sequence = trace.scheduler.get(asked)
    assert sequence is not None
    assert sequence.lens is not None
    [(_, start, rows)] = sequence.lens._waiting
    assert (start, len(rows)) == (32, 8)
    assert rows.untyped_storage().nbytes() == 40 * 64 * 4
