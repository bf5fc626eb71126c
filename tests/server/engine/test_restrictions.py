"""Tokens that may not be drawn: minimum length, allowed and forbidden tokens, dead ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from engine_trace import Trace
from headstream.model.outputs import Outputs, RowsSpec, SamplingParams
from tiny_models import D_VOCAB

PROMPT = [(37 * i + 11) % D_VOCAB for i in range(20)]


@pytest.fixture
def trace(tiny_gemma: Path, cache_dir: Path) -> Trace:
    """A fresh engine core."""
    return Trace(tiny_gemma, cache_dir)


@pytest.fixture(scope="module")
def reference(tiny_gemma: Path) -> Any:
    """The same checkpoint in transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_gemma, dtype=torch.float32)
    return model.eval()


def greedy(trace: Trace, count: int, **spec: Any) -> tuple[list[int], str | None]:
    sequence_id = trace.submit(PROMPT, count, **spec)
    trace.run()
    news = trace.news[sequence_id]
    return news.token_ids, news.finish


def theirs(reference: Any, **settings: Any) -> list[int]:
    ids = reference.generate(torch.tensor([PROMPT]), do_sample=False, pad_token_id=0, **settings)
    return ids[0, len(PROMPT) :].tolist()


def test_minimum_length_equals_transformers(trace: Trace, reference: Any) -> None:
    free, _ = greedy(trace, 12)
    stops = tuple({free[1], free[3]})
    assert len(greedy(trace, 12, stop_token_ids=stops)[0]) <= 2
    for least in (3, 7, 12):
        tokens, finish = greedy(trace, 12, stop_token_ids=stops, min_new_tokens=least)
        expected = theirs(
            reference, eos_token_id=list(stops), min_new_tokens=least, max_new_tokens=12
        )
        assert tokens == expected
        assert not set(tokens[:least]) & set(stops)
        assert (finish == "stop") == (tokens[-1] in stops)


def test_forbidden_tokens_equal_suppressed_ones(trace: Trace, reference: Any) -> None:
    free, _ = greedy(trace, 8)
    forbidden = sorted(set(free))
    tokens, _ = greedy(trace, 8, sampling=SamplingParams(forbidden_ids=tuple(forbidden)))
    expected = theirs(reference, suppress_tokens=forbidden, eos_token_id=None, max_new_tokens=8)
    assert tokens == expected
    assert not set(tokens) & set(forbidden)


def test_only_allowed_tokens(trace: Trace) -> None:
    allowed = (7, 100, 3)
    for seed in range(20):
        params = SamplingParams(temperature=5.0, allowed_ids=allowed, seed=seed)
        assert set(greedy(trace, 10, sampling=params)[0]) <= set(allowed)


@pytest.mark.parametrize("outputs", [Outputs(), Outputs(rows=RowsSpec(generated_layers=(-1,)))])
def test_a_dead_end_ends_the_sequence_and_no_other(trace: Trace, outputs: Outputs) -> None:
    """Tokens 7 and 9 alone are allowed, and both would end it too early."""
    other = trace.submit(PROMPT, 6)
    params = SamplingParams(allowed_ids=(7, 9))
    tokens, finish = greedy(
        trace, 5, sampling=params, stop_token_ids=(7, 9), min_new_tokens=2, outputs=outputs
    )
    assert (tokens, finish) == ([], "dead_end")
    assert len(trace.news[other].token_ids) == 6
    assert trace.scheduler.num_blocks_used == 0
