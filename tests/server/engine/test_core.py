"""What comes out of the core: rows, vectors, stops, faults and their bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from engine_trace import PLENTY, Trace
from headstream.model.outputs import LogitsSpec, Outputs, PoolSpec, RowsSpec, SamplingParams
from headstream.server.engine.messages import Abort, Flow
from tiny_models import D_VOCAB

PROMPT = [(37 * i + 11) % D_VOCAB for i in range(300)]


@pytest.fixture
def trace(tiny_gemma: Path, cache_dir: Path) -> Trace:
    """A fresh engine core."""
    return Trace(tiny_gemma, cache_dir)


@pytest.fixture(scope="module")
def reference(tiny_gemma: Path) -> Any:
    """The same checkpoint in transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_gemma, dtype=torch.float32)
    return model.eval()


def test_greedy_tokens_and_logits_equal_transformers(trace: Trace, reference: Any) -> None:
    """Chunked prefill and decode over the block pool, beside one dense forward pass."""
    outputs = Outputs(logits=LogitsSpec("full"), logprob=True)
    sequence_id = trace.submit(PROMPT, 30, outputs=outputs)
    trace.run()
    news = trace.news[sequence_id]
    with torch.no_grad():
        logits = reference(torch.tensor([PROMPT + news.token_ids])).logits[0]
    expected = logits[len(PROMPT) - 1 : -1]
    assert news.token_ids == expected.argmax(-1).tolist()
    np.testing.assert_allclose(np.stack(news.logits), expected.numpy(), atol=2e-5, rtol=1e-5)
    assert news.finish == "length"


def test_rows_of_every_layer_equal_transformers(trace: Trace, reference: Any) -> None:
    """Prompt and generated rows, sent once each, of layers 0, 1, 2 and final."""
    outputs = Outputs(rows=RowsSpec(prompt_layers=(0, 1, 2, -1), generated_layers=(1, -1)))
    sequence_id = trace.submit(PROMPT, 5, outputs=outputs)
    trace.run()
    news = trace.news[sequence_id]
    with torch.no_grad():
        hidden = reference(
            torch.tensor([PROMPT + news.token_ids]), output_hidden_states=True
        ).hidden_states
    by_layer = {0: hidden[0][0], 1: hidden[1][0], 2: hidden[2][0], -1: hidden[3][0]}
    wanted = {(layer, i) for layer in (0, 1, 2, -1) for i in range(300)}
    wanted |= {(layer, 300 + i) for layer in (1, -1) for i in range(5)}
    assert news.rows.keys() == wanted
    for (layer, position), data in news.rows.items():
        row = np.frombuffer(data, np.float32)
        np.testing.assert_allclose(row, by_layer[layer][position].numpy(), atol=1e-4, rtol=1e-4)


def test_pooled_vectors(trace: Trace, reference: Any) -> None:
    """Mean and spans over a prompt that takes two steps."""
    spans = (tuple(range(300)), (5, 6, 7), (299,))
    sequence_id = trace.submit(PROMPT, outputs=Outputs(pool=PoolSpec(-1, "mean", spans)))
    trace.run()
    news = trace.news[sequence_id]
    assert news.vectors is not None
    vectors = np.frombuffer(news.vectors, np.float32).reshape(3, 64)
    with torch.no_grad():
        rows = reference.model(torch.tensor([PROMPT])).last_hidden_state[0].numpy()
    expected = np.stack([rows[list(span)].mean(0) for span in spans])
    np.testing.assert_allclose(vectors, expected, atol=1e-4, rtol=1e-4)
    assert (news.finish, news.token_ids) == ("length", [])


def test_stop_token_ends_the_sequence(trace: Trace) -> None:
    """The stop token itself is the last token."""
    first = trace.submit(PROMPT[:20], 10)
    trace.run()
    tokens = trace.news[first].token_ids
    stop = tokens[4]
    second = trace.submit(PROMPT[:20], 10, stop_token_ids=(stop,))
    trace.run()
    news = trace.news[second]
    assert news.finish == "stop"
    assert news.token_ids == tokens[: tokens.index(stop) + 1]


def test_abort_at_any_moment_frees_everything(trace: Trace) -> None:
    """Abort after 0, 1, 2, ... steps."""
    for steps in range(12):
        victim = trace.submit(PROMPT, 8)
        other = trace.submit(PROMPT[:9], 8)
        for _ in range(steps):
            if trace.core.has_work:
                trace.core.step()
        trace.core.handle(Abort(victim))
        trace.core.handle(Abort(victim))
        trace.run()
        assert trace.scheduler.num_blocks_used == 0
        assert len(trace.news[other].token_ids) == 8


def test_pause_stops_only_its_own_sequence(trace: Trace) -> None:
    """Flow control reaches the scheduler."""
    slow, fast = trace.submit(PROMPT[:9], 8), trace.submit(PROMPT[:9], 8)
    trace.core.step()
    trace.core.handle(Flow(slow, 0))
    trace.run()
    assert len(trace.news[fast].token_ids) == 8
    assert len(trace.news[slow].token_ids) == 1
    trace.core.handle(Flow(slow, PLENTY))
    trace.run()
    assert trace.news[slow].token_ids == trace.news[fast].token_ids


def test_nothing_is_computed_beyond_the_credit(trace: Trace) -> None:
    """To the very row; who has no tensors to tell is not held up."""
    full = Outputs(logits=LogitsSpec("full"))
    slow, other = trace.submit(PROMPT[:9], 8, outputs=full), trace.submit(PROMPT[:9], 8)
    trace.core.handle(Flow(slow, 2 * 4 * trace.ready.d_vocab + 1))
    trace.core.handle(Flow(other, 1))
    trace.run()
    assert len(trace.news[other].token_ids) == 8
    assert len(trace.news[slow].token_ids) == 3
    trace.core.handle(Flow(slow, PLENTY))
    trace.run()
    assert trace.news[slow].token_ids == trace.news[other].token_ids


def test_sequence_that_can_never_fit_is_refused(trace: Trace) -> None:
    """Refused with an error, and nobody else is touched."""
    slots = trace.ready.blocks_total * trace.ready.block_size
    bad = trace.submit([1] * 10, slots)
    good = trace.submit(PROMPT[:9], 3)
    trace.run()
    assert trace.news[bad].finish == "error"
    assert "does not fit" in trace.news[bad].error
    assert len(trace.news[good].token_ids) == 3


def test_fault_in_a_step_ends_its_sequences_only(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the forward pass: its sequences fail, later ones run."""
    bad = trace.submit(PROMPT[:9], 3)

    def explode(_: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(trace.runner, "run", explode)
        trace.run()
    assert trace.news[bad].finish == "error"
    assert "out of luck" in trace.news[bad].error
    good = trace.submit(PROMPT[:9], 3)
    trace.run()
    assert len(trace.news[good].token_ids) == 3
    assert trace.scheduler.num_blocks_used == 0


def test_seeded_sampling_is_repeatable(trace: Trace) -> None:
    """Same seed, same tokens; another seed, other tokens."""
    runs = []
    for seed in (1, 1, 2):
        params = SamplingParams(temperature=2.0, seed=seed)
        sequence_id = trace.submit(PROMPT[:9], 30, sampling=params)
        trace.run()
        runs.append(trace.news[sequence_id].token_ids)
    assert runs[0] == runs[1] != runs[2]
