"""A scripted engine behind the real front."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from tokenizers import Tokenizer

from front_looks import play_look
from front_values import D_MODEL, float_tensor, make_event, make_ready
from headstream.model.outputs import Outputs, SamplingParams, WireDtype
from headstream.model.sites import Edit
from headstream.server.config_sources import load_settings
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.look import Look
from headstream.server.engine.messages import Loading, Ready, StepReport, StepStats, Vocabulary
from headstream.server.engine.priority import Priority
from headstream.server.engine.state import EngineState
from headstream.server.engine.stream import (
    RowsEvent,
    ScoresEvent,
    SequenceStream,
    TokenEvent,
    WireTensor,
)
from headstream.server.front import Front, Ports
from headstream.server.logs import configure_logs

GREEDY = SamplingParams()
NOTHING = Outputs()
NO_LOOK = Look()


@dataclass
class Job:
    """What the engine was asked for."""

    token_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingParams
    stop_token_ids: tuple[int, ...]
    min_new_tokens: int
    grammar: str
    outputs: Outputs
    output_ids: tuple[int, ...]
    look: Look
    edits: tuple[Edit, ...]
    stream: SequenceStream
    left: bool = False
    credit: list[int] = field(default_factory=list[int])  # that the front has given it
    priority: Priority = Priority.NORMAL


Script = Callable[[Job], None]


def play(job: Job, ready: Ready) -> None:
    """What a real engine does: rows of the prompt, vectors, then tokens 40, 41, 42 and so on."""
    outputs, length = job.outputs, len(job.token_ids)
    layers = outputs.rows.prompt_layers
    rows = tuple(
        RowsEvent(layer, 0, float_tensor(np.full((length, ready.d_model), float(layer))))
        for layer in layers
    )
    vectors = None
    if outputs.pool is not None:
        means = [[float(np.mean(span))] * ready.d_model for span in outputs.pool.spans]
        vectors = float_tensor(np.array(means))
    if outputs.score is not None:
        _play_scores(job, ready)
        return
    if job.look != NO_LOOK:
        play_look(job.stream, job.look, len(job.token_ids), job.max_new_tokens, ready)
        return
    if job.max_new_tokens == 0:
        job.stream.put(make_event(rows=rows, vectors=vectors, finish="length"))
        return
    for index in range(len(job.output_ids), job.max_new_tokens):
        logits = None
        if outputs.logits.mode == "full":
            logits = float_tensor(np.arange(ready.d_vocab))
        token = TokenEvent(index, 40 + index, -0.5 if outputs.logprob else None, logits, ())
        job.stream.put(make_event(token=token, rows=_generated(job, ready, index - 1)))
    rows = _generated(job, ready, job.max_new_tokens - 1)
    job.stream.put(make_event(rows=rows, finish="length"))


def _play_scores(job: Job, ready: Ready) -> None:
    """Two events: position i has log-probability -i, rank i and entropy i, and a row full of i."""
    score = job.outputs.score
    assert score is not None
    positions = np.arange(score.first, len(job.token_ids))
    for part, finish in zip(np.array_split(positions, 2), (None, "length"), strict=True):
        logits = None
        if score.logits.mode == "full":
            logits = float_tensor(np.tile(part[:, None], ready.d_vocab))
        values = float_tensor(np.stack([-part, part, part]))
        scores = ScoresEvent(int(part[0]), values, logits, b"") if len(part) else None
        job.stream.put(make_event(scores=scores, finish=finish))


def _generated(job: Job, ready: Ready, index: int) -> tuple[RowsEvent, ...]:
    if index < 0:
        return ()
    position = len(job.token_ids) + index
    return tuple(
        RowsEvent(layer, position, float_tensor(np.full((1, ready.d_model), float(index))))
        for layer in job.outputs.rows.generated_layers
    )


class FakeHandle:
    """Stands in for EngineHandle; the script decides what a sequence does."""

    def __init__(self, config: EngineConfig, directory: Path, **ready: Any) -> None:
        self.config = config
        self.state = EngineState.LOADING
        self.stats: StepStats | None = None
        self.jobs: list[Job] = []
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        d_vocab = ready.pop("d_vocab", tokenizer.get_vocab_size())
        self._will_be_ready = make_ready(directory, d_vocab, **ready)
        self.ready: Ready | None = None
        self.script: Script = lambda job: play(job, self._will_be_ready)
        self.listeners: list[Callable[[StepReport], None]] = []
        self.callbacks: list[Callable[[EngineState], None]] = []

    async def start(self, on_progress: Callable[[Loading], None]) -> None:
        self.ready = self._will_be_ready
        self.set_state(EngineState.SERVING)

    def set_state(self, state: EngineState) -> None:
        self.state = state
        for callback in self.callbacks:
            callback(state)

    def submit_all(
        self, token_ids: Sequence[int], sibling_seeds: Sequence[int], **options: Any
    ) -> list[SequenceStream]:
        sampling = options.pop("sampling", GREEDY)
        draws = [sampling, *(dataclasses.replace(sampling, seed=seed) for seed in sibling_seeds)]
        return [self._submit(token_ids, sampling=each, **options) for each in draws]

    def _submit(
        self,
        token_ids: Sequence[int],
        *,
        max_new_tokens: int = 0,
        sampling: SamplingParams = GREEDY,
        stop_token_ids: Sequence[int] = (),
        min_new_tokens: int = 0,
        grammar: str = "",
        outputs: Outputs = NOTHING,
        output_ids: tuple[int, ...] = (),
        tenant: str = "",
        look: Look = NO_LOOK,
        edits: tuple[Edit, ...] = (),
        priority: Priority = Priority.NORMAL,
    ) -> SequenceStream:
        given: list[int] = []

        def leave() -> None:
            job.left = True

        stream = SequenceStream(on_leave=leave, on_flow=given.append)
        ids, stops = tuple(token_ids), tuple(stop_token_ids)
        job = Job(
            ids,
            max_new_tokens,
            sampling,
            stops,
            min_new_tokens,
            grammar,
            outputs,
            output_ids,
            look,
            edits,
            stream,
            credit=given,
            priority=priority,
        )
        self.jobs.append(job)
        self.script(job)
        return stream

    def teach(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    async def lookup(self, token_ids: Sequence[int], dtype: WireDtype) -> WireTensor:
        return float_tensor(np.array([[float(i)] * D_MODEL for i in token_ids]))

    def add_listener(self, listener: Callable[[StepReport], None]) -> None:
        self.listeners.append(listener)

    def on_state(self, callback: Callable[[EngineState], None]) -> None:
        self.callbacks.append(callback)

    async def stop(self) -> None:
        self.state = EngineState.STOPPED


@dataclass
class Running:
    """A front that serves a scripted engine."""

    front: Front
    handle: FakeHandle
    ports: Ports
    channel: grpc.aio.Channel


@asynccontextmanager
async def running_front(
    directory: Path, *flags: str, load: bool = True, **ready: Any
) -> AsyncGenerator[Running]:
    """A front on free ports, with a channel to it."""
    common = ["--models", "tiny=fake", "--port", "0", "--admin-port", "0", "--drain-delay", "0"]
    settings = load_settings([*common, *flags])
    configure_logs(settings, io.StringIO())
    handles: list[FakeHandle] = []

    def make_handle(config: EngineConfig) -> Any:
        handles.append(FakeHandle(config, directory, **ready))
        return handles[-1]

    front = Front(settings, make_handle)
    ports = await front.listen()
    if load:
        await front.load(lambda _: None)
    await asyncio.sleep(0)
    async with grpc.aio.insecure_channel(ports.address) as channel:
        try:
            yield Running(front, handles[0], ports, channel)
        finally:
            await front.close()
