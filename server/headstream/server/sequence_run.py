"""One sequence from submission to its last event, with its metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from headstream.model.outputs import Outputs, SamplingParams
from headstream.server.admission import Ticket
from headstream.server.call import current_call
from headstream.server.engine.stream import Event
from headstream.server.errors import EngineFault, InvalidRequest, NoChatTemplate
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.offsets import TokenizedText
from headstream.server.tokenizer import TextTokenizer
from headstream.server.wire.inputs import ChatInput, IdsInput, ParsedInput


async def tokenize(model: LoadedModel, parsed: ParsedInput, prompt: str = "") -> TokenizedText:
    """The tokens of an input, in a thread: a long text takes long.

    ``prompt``: put before a text, and read as one with it.
    """
    started = time.perf_counter_ns()
    if isinstance(parsed, IdsInput):
        tokens = await asyncio.to_thread(model.tokenizer.describe, parsed.ids)
    elif isinstance(parsed, ChatInput):
        tokens = await asyncio.to_thread(_encode_chat, model.tokenizer, parsed)
    else:
        tokens = await asyncio.to_thread(
            model.tokenizer.encode, prompt + parsed.text, skip_special=parsed.skip_special
        )
    call = current_call()
    call.tokenize_ns = max(call.tokenize_ns, time.perf_counter_ns() - started)
    return tokens


def _encode_chat(tokenizer: TextTokenizer, chat: ChatInput) -> TokenizedText:
    """The tokens of a chat. The template has written the special ones, so none are added."""
    if tokenizer.chat_template is None:
        raise NoChatTemplate(chat.field)
    text = tokenizer.chat_template.render(
        chat.field, chat.messages, add_generation_prompt=chat.add_generation_prompt
    )
    return tokenizer.encode(text, skip_special=True)


async def run_sequence(
    model: LoadedModel,
    metrics: Metrics,
    ticket: Ticket,
    token_ids: tuple[int, ...],
    *,
    max_new_tokens: int = 0,
    sampling: SamplingParams | None = None,
    stop_token_ids: tuple[int, ...] = (),
    min_new_tokens: int = 0,
    grammar: str = "",
    outputs: Outputs,
) -> AsyncGenerator[Event]:
    """The events of one sequence. Closing the generator frees what the sequence still holds."""
    call = current_call()
    stream = model.handle.submit(
        token_ids,
        max_new_tokens=max_new_tokens,
        sampling=sampling or SamplingParams(),
        stop_token_ids=stop_token_ids,
        min_new_tokens=min_new_tokens,
        grammar=grammar,
        outputs=outputs,
    )
    call.input_tokens += len(token_ids)
    metrics.input_tokens.labels(model.name).inc(len(token_ids))
    watch = _TokenWatch(model.name, metrics)
    finished = False
    try:
        async with stream:
            async for event in stream:
                if event.finish == "refused":
                    raise InvalidRequest(
                        "sampling.constraint",
                        "too complex, or it names special tokens that the model does not have",
                    )
                if event.finish == "error":
                    raise EngineFault("the engine reported a fault of this sequence")
                finished = event.finish is not None
                ticket.release()
                watch.observe(event)
                yield event
    finally:
        if not finished:
            call.unfinished_sequences += 1


class _TokenWatch:
    """Latencies of one sequence."""

    def __init__(self, model: str, metrics: Metrics) -> None:
        self._model = model
        self._metrics = metrics
        self._last_token_ns = 0
        self._queued = True

    def observe(self, event: Event) -> None:
        call, metrics, model = current_call(), self._metrics, self._model
        call.note_times(event.queue_ns, event.compute_ns)
        if self._queued:
            self._queued = False
            metrics.queue_seconds.labels(model).observe(event.queue_ns / 1e9)
        outputs = (event.token, event.rows or None, event.vectors, event.scores)
        if any(output is not None for output in outputs):
            call.note_output()
        if event.token is None:
            return
        call.output_tokens += 1
        metrics.output_tokens.labels(model).inc()
        now = time.perf_counter_ns()
        if self._last_token_ns:
            metrics.inter_token.labels(model).observe((now - self._last_token_ns) / 1e9)
        else:
            metrics.first_token.labels(model).observe(call.elapsed_ns() / 1e9)
        self._last_token_ns = now
