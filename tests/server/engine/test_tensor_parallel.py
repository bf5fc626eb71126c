"""Ranks that share a model: the numbers of one process, the same bits in any company, one fate."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from front_calls import until
from headstream.model.batch import FINAL
from headstream.model.outputs import LogitsSpec, Outputs, RowsSpec, SamplingParams, ScoreSpec
from headstream.model.sites import Edit
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.handle import EngineHandle
from headstream.server.engine.launcher import EngineProcess
from headstream.server.engine.state import EngineState
from headstream.server.errors import EngineStartError
from tiny_models import D_VOCAB, save_tiny

PROMPT = [3, 14, 15, 92, 65]
TEXT = [(37 * i + 5) % D_VOCAB for i in range(300)]
TIMEOUT_S = 5.0
VARIED = SamplingParams(temperature=0.0, frequency_penalty=30.0)
"""Greedy, but no token comes again at once: tiny models have a favourite."""

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True}, 2),
    # One key/value head for three ranks, and a vocabulary that three do not divide.
    "llama-shared": (
        "llama",
        {
            "hidden_size": 96,
            "num_attention_heads": 6,
            "num_key_value_heads": 1,
            "intermediate_size": 96,
            "tie_word_embeddings": True,
        },
        3,
    ),
    "qwen3": ("qwen3", {}, 2),
    "gemma3": ("gemma3", {"final_logit_softcapping": 30.0}, 2),
}


@asynccontextmanager
async def running(directory: Path, cache_dir: Path, **changes: Any) -> AsyncGenerator[EngineHandle]:
    settings: dict[str, Any] = {
        "name": "tiny",
        "source": str(directory),
        "cache_dir": str(cache_dir),
        "dtype": "float32",
        "num_threads": 1,
        "kv_cache_bytes": 8 << 20,
        **changes,
    }
    config = EngineConfig(**settings)
    handle = EngineHandle(config, in_process=config.tensor_parallel == 1)
    try:
        await handle.start()
        yield handle
    finally:
        await handle.stop()


async def generated(handle: EngineHandle, prompt: Sequence[int]) -> dict[str, np.ndarray]:
    """Greedy tokens, whole rows of logits [n, V], and final vectors of all positions."""
    rows = RowsSpec(prompt_layers=(1, FINAL), generated_layers=(FINAL,))
    outputs = Outputs(logits=LogitsSpec("full"), rows=rows, logprob=True)
    tokens: list[int] = []
    logits: list[np.ndarray] = []
    vectors: dict[tuple[int, int], np.ndarray] = {}
    logprobs: list[float | None] = []
    async for event in handle.submit(prompt, max_new_tokens=12, sampling=VARIED, outputs=outputs):
        if event.token is not None:
            assert event.token.logits is not None
            tokens.append(event.token.token_id)
            logprobs.append(event.token.logprob)
            logits.append(np.frombuffer(event.token.logits.data, np.float32))
        for part in event.rows:
            vectors[part.layer, part.start] = np.frombuffer(part.values.data, np.float32)
    return {
        "tokens": np.array(tokens),
        "logprobs": np.array(logprobs),
        "logits": np.stack(logits),
        "vectors": np.concatenate([vectors[at] for at in sorted(vectors)]),
    }


async def scored(handle: EngineHandle) -> dict[str, np.ndarray]:
    """Of every token of a text: log-probability, rank, entropy; and the ten largest logits."""
    outputs = Outputs(score=ScoreSpec(1, LogitsSpec("top", top_k=10)))
    scores: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    async for event in handle.submit(TEXT, outputs=outputs):
        if (part := event.scores) is not None:
            assert part.logits is not None
            scores.append(np.frombuffer(part.values.data, np.float32).reshape(3, -1))
            logits.append(np.frombuffer(part.logits.data, np.float32))
            ids.append(np.frombuffer(part.logits_ids, np.int32))
    logprobs, ranks, entropies = np.concatenate(scores, axis=1)
    return {
        "logprobs": logprobs,
        "ranks": ranks,
        "entropies": entropies,
        "top": np.concatenate(logits),
        "top ids": np.concatenate(ids),
    }


async def looked_up(handle: EngineHandle) -> np.ndarray:
    rows = await handle.lookup([5, 0, D_VOCAB - 1], "float32")
    return np.frombuffer(rows.data, np.float32)


def check_close(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    for name, values in theirs.items():
        exact = values.dtype.kind == "i" or name == "ranks"
        np.testing.assert_allclose(ours[name], values, atol=0 if exact else 1e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES)
async def test_ranks_give_the_numbers_of_one_process(
    case: str, tmp_path: Path, cache_dir: Path
) -> None:
    """And, among each other, the same bits alone and in company."""
    family, changes, size = CASES[case]
    directory = save_tiny(family, tmp_path, initializer_range=0.1, **changes)
    async with running(directory, cache_dir) as alone:
        tokens, scores, rows = (
            await generated(alone, PROMPT),
            await scored(alone),
            await looked_up(alone),
        )
        assert len(set(tokens["tokens"].tolist())) > 1, "one token again and again"
        ready = alone.ready
    async with running(directory, cache_dir, tensor_parallel=size) as shared:
        lone = await generated(shared, PROMPT)
        check_close(lone, tokens)
        check_close(await scored(shared), scores)
        assert np.array_equal(await looked_up(shared), rows)
        crowd = await asyncio.gather(
            *(generated(shared, prompt) for prompt in (TEXT, PROMPT, TEXT[:70])), scored(shared)
        )
        assert all(np.array_equal(crowd[1][name], lone[name]) for name in lone)
        assert ready is not None
        assert shared.ready is not None
        assert shared.ready.batch_invariant
        assert shared.ready.backend == f"{ready.backend}-ranks{size}"
        assert shared.ready.n_heads == ready.n_heads, "what is told is the whole model's"


async def test_eight_bits_lose_no_more_on_ranks(tmp_path: Path, cache_dir: Path) -> None:
    """Each rank rounds its own columns of o and down, so bits differ; what is lost does not."""
    directory = save_tiny("llama", tmp_path, initializer_range=0.1)
    rows: list[np.ndarray] = []
    for quantization, size in (("none", 1), ("int8", 1), ("int8", 2)):
        changes = {"quantization": quantization, "tensor_parallel": size}
        async with running(directory, cache_dir, **changes) as handle:
            rows.append((await scored(handle))["logprobs"])
    exact, one, two = rows
    lost, lost_on_ranks = np.linalg.norm(one - exact), np.linalg.norm(two - exact)
    assert 0 < lost_on_ranks < 1.2 * lost, (lost_on_ranks, lost)


async def test_what_cannot_be_split_is_refused_with_the_reason(
    gentle: dict[str, Path], cache_dir: Path
) -> None:
    with pytest.raises(EngineStartError, match="family 'gpt2' cannot be split"):
        async with running(gentle["gpt2"], cache_dir, tensor_parallel=2):
            pass
    with pytest.raises(EngineStartError, match="tensor_parallel is 3, but it must divide"):
        async with running(gentle["llama"], cache_dir, tensor_parallel=3):
            pass
    assert ranks() == []


def ranks() -> list[psutil.Process]:
    """The processes of all engines, in the order of their ranks."""
    return sorted(
        (
            child
            for child in psutil.Process().children()
            if child.status() != psutil.STATUS_ZOMBIE
            and "headstream.server.engine." in " ".join(child.cmdline())
        ),
        key=lambda process: process.cmdline()[-1],
    )


@pytest.fixture
async def pair(tiny_gemma: Path, cache_dir: Path) -> AsyncGenerator[EngineHandle]:
    """An engine of two ranks."""
    async with running(tiny_gemma, cache_dir, tensor_parallel=2, rank_timeout=TIMEOUT_S) as handle:
        yield handle


async def test_an_edit_is_refused_and_harms_nobody(pair: EngineHandle) -> None:
    before = await generated(pair, PROMPT)
    edit = Edit("resid_pre", "scale", (1,), factor=2.0)
    events = [event async for event in pair.submit(PROMPT, max_new_tokens=2, edits=(edit,))]
    assert [event.finish for event in events] == ["error"]
    assert np.array_equal((await generated(pair, PROMPT))["logits"], before["logits"])


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_rank_ends_all(pair: EngineHandle, rank: int, number: signal.Signals) -> None:
    """Killed: at once. Stuck: after the timeout. Then the engine can be started again."""
    expected = await generated(pair, PROMPT)
    processes = ranks()
    assert len(processes) == 2
    os.kill(processes[rank].pid, number)
    seconds = 5.0 + (TIMEOUT_S if number == signal.SIGSTOP else 0.0)
    assert await seconds_until_failed(pair) < seconds
    await until(lambda: not any(map(psutil.Process.is_running, processes)))
    await pair.start()
    assert np.array_equal((await generated(pair, PROMPT))["logits"], expected["logits"])


async def seconds_until_failed(handle: EngineHandle) -> float:
    begin = time.monotonic()
    await until(lambda: handle.state is EngineState.FAILED)
    return time.monotonic() - begin


async def test_a_stuck_first_rank_goes_unseen_where_it_alone_is_watched(
    tiny_gemma: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the others end after the timeout, and nobody notices."""

    async def wait_for_first(self: EngineProcess) -> None:
        await self._ranks[0].wait()

    monkeypatch.setattr(EngineProcess, "wait", wait_for_first)
    async with running(tiny_gemma, cache_dir, tensor_parallel=2, rank_timeout=TIMEOUT_S) as handle:
        first, second = ranks()
        os.kill(first.pid, signal.SIGSTOP)
        await until(lambda: not second.is_running() or second.status() == psutil.STATUS_ZOMBIE)
        await asyncio.sleep(2.0)
        assert handle.state is EngineState.SERVING
        os.kill(first.pid, signal.SIGKILL)
