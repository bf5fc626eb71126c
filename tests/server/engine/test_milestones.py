"""What the engine tells of how a sequence has fared, for its spans."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine_trace import Trace
from headstream.server.engine.messages import Milestone
from tiny_models import D_VOCAB

PROMPT = [(37 * i + 11) % D_VOCAB for i in range(400)]  # a chunk of 256, and 144


@pytest.fixture
def trace(tiny_gemma: Path, cache_dir: Path) -> Trace:
    return Trace(tiny_gemma, cache_dir, max_num_batched_tokens=320)


def milestones(trace: Trace, sequence_id: int) -> list[Milestone]:
    deltas = (delta for report in trace.reports for delta in report.deltas)
    return [each.milestone for each in deltas if each.id == sequence_id and each.milestone]


def test_told_at_the_first_step_the_first_token_and_the_end(trace: Trace) -> None:
    before = time.monotonic_ns()
    sequence_id = trace.submit(PROMPT, 30)
    trace.run()
    told = milestones(trace, sequence_id)
    assert [each.prompt_steps for each in told] == [1, 2, 2]
    [first_ns] = {each.first_step_ns for each in told}
    assert before < first_ns < time.monotonic_ns()
    assert {(each.cached_tokens, each.preemptions) for each in told} == {(0, 0)}


def test_a_cached_prompt(trace: Trace) -> None:
    trace.submit(PROMPT, 1)
    trace.run()
    sequence_id = trace.submit(PROMPT, 1)
    trace.run()
    assert [(each.prompt_steps, each.cached_tokens) for each in milestones(trace, sequence_id)] == [
        (1, 256)
    ]


def test_a_preemption(trace: Trace) -> None:
    """It begins again with the chunk that was kept; its first step stays the first."""
    sequence_id = trace.submit(PROMPT, 30)
    for _ in range(5):
        trace.core.step()
    sequence = trace.scheduler.get(sequence_id)
    assert sequence is not None
    trace.scheduler._holders.preempt(sequence)
    assert sequence.num_cached == 0
    trace.run()
    *_, first_token, end = milestones(trace, sequence_id)
    assert (first_token.preemptions, first_token.prompt_steps) == (0, 2)
    assert (end.preemptions, end.prompt_steps, end.cached_tokens) == (1, 3, 256)
    assert end.first_step_ns == first_token.first_step_ns


def test_siblings_have_that_of_their_prompt(trace: Trace) -> None:
    first, second = trace.submit_all(PROMPT, 5, [7])
    trace.run()
    assert milestones(trace, first)[-1] == milestones(trace, second)[-1]
    assert milestones(trace, second)[0].prompt_steps == 2
