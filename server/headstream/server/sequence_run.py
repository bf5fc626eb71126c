"""Sequences from submission to their last events, with their metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, contextmanager
from typing import Unpack

from headstream.server.admission import Ticket
from headstream.server.call import current_call
from headstream.server.engine.messages import FinishReason, SubmitOptions
from headstream.server.engine.stream import Event, SequenceStream
from headstream.server.errors import EngineFault, EngineUnavailable, InvalidRequest, NoChatTemplate
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.offsets import TokenizedText, Tokens
from headstream.server.together import gather
from headstream.server.tokenizer import TextTokenizer
from headstream.server.wire.inputs import ChatInput, IdsInput, ParsedInput, check_length

_REFUSALS: dict[FinishReason | None, tuple[str, str]] = {
    "refused": (
        "sampling.constraint",
        "too complex, or it names special tokens that the model does not have",
    ),
    "off_grammar": (
        "generated_token_ids",
        "end the text that sampling.constraint admits, or do not begin one",
    ),
}


async def tokenize(model: LoadedModel, parsed: ParsedInput, prompt: str = "") -> TokenizedText:
    """The tokens of an input, in a thread: a long text takes long.

    ``prompt``: put before a text, and read as one with it.
    """
    with _timed_tokenizing():
        return await _tokenize(model, parsed, prompt)


async def read_texts(
    model: LoadedModel, texts: Sequence[str], *, skip_special: bool
) -> list[Tokens]:
    """The tokens of many texts whose places in them nobody asks for, in one thread."""
    with _timed_tokenizing():
        return await asyncio.to_thread(model.tokenizer.read, texts, skip_special=skip_special)


async def tokenize_prompts(
    model: LoadedModel, field: str, parsed: Sequence[ParsedInput]
) -> list[TokenizedText]:
    """The tokens of several prompts, behind each of which the model has room for one more.

    Raises:
        InvalidRequest: There is no room behind one of them.
    """
    prompts = await gather([tokenize(model, each) for each in parsed])
    for i, prompt in enumerate(prompts):
        check_length(f"{field}[{i}]", len(prompt), model.limits, new_tokens=1)
    return prompts


@contextmanager
def _timed_tokenizing() -> Generator[None]:
    """The longest time counts."""
    started = time.perf_counter_ns()
    yield
    call = current_call()
    call.tokenize_ns = max(call.tokenize_ns, time.perf_counter_ns() - started)


async def _tokenize(model: LoadedModel, parsed: ParsedInput, prompt: str) -> TokenizedText:
    if isinstance(parsed, IdsInput):
        return await asyncio.to_thread(model.tokenizer.describe, parsed.ids)
    if isinstance(parsed, ChatInput):
        return await asyncio.to_thread(_encode_chat, model.tokenizer, parsed)
    return await asyncio.to_thread(
        model.tokenizer.encode, prompt + parsed.text, skip_special=parsed.skip_special
    )


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
    **options: Unpack[SubmitOptions],
) -> AsyncGenerator[Event]:
    """The events of one sequence. Closing the generator frees what the sequence still holds."""
    with submitted(model, metrics, token_ids, (), **options) as [stream]:
        async with aclosing(read_sequence(model, metrics, ticket, stream)) as events:
            async for event in events:
                yield event


@contextmanager
def submitted(
    model: LoadedModel,
    metrics: Metrics,
    token_ids: tuple[int, ...],
    sibling_seeds: Sequence[int],
    **options: Unpack[SubmitOptions],
) -> Generator[list[SequenceStream]]:
    """The streams of one or several continuations of a prompt; in the end all of them are left.

    Raises:
        EngineUnavailable: Another engine has been started since the call began, which may have
            other weights: between two texts of a stream nothing runs that would fail.
    """
    if model.ready is not model.handle.ready:
        raise EngineUnavailable("the engine of this model has been started again")
    call = current_call()
    options["tenant"], options["priority"] = call.tenant, call.priority
    streams = model.handle.submit_all(token_ids, sibling_seeds, **options)
    num_read = len(token_ids) + len(options.get("output_ids", ()))
    call.input_tokens += num_read
    metrics.input_tokens.labels(model.name).inc(num_read)
    try:
        yield streams
    finally:
        for stream in streams:
            stream.leave()
            call.unfinished_sequences += stream.was_left


async def read_sequence(
    model: LoadedModel, metrics: Metrics, ticket: Ticket, stream: SequenceStream
) -> AsyncGenerator[Event]:
    """The events of a stream. Closing the generator leaves it."""
    watch = _TokenWatch(model.name, metrics)
    async with stream, aclosing(followed(stream)) as events:
        async for event in events:
            if event.finish in _REFUSALS:
                raise InvalidRequest(*_REFUSALS[event.finish])
            if event.finish == "error":
                raise EngineFault("the engine reported a fault of this sequence")
            ticket.release()
            watch.observe(event)
            yield event


def followed(stream: SequenceStream) -> AsyncGenerator[Event]:
    """The events of a stream of the call in hand; its spans are made where somebody wants them."""
    trace = current_call().trace
    spans = None if trace is None else trace.follow(stream)
    return aiter(stream) if spans is None else spans.read(stream)


class _TokenWatch:
    """Latencies of one sequence, of the call in hand."""

    def __init__(self, model: str, metrics: Metrics) -> None:
        self._call = call = current_call()
        self._queue_seconds = metrics.queue_seconds.labels(model, call.priority.word)
        # Looked up once: that costs as much as counting.
        self._output_tokens = metrics.output_tokens.labels(model)
        self._first_token = metrics.first_token.labels(model)
        self._inter_token = metrics.inter_token.labels(model)
        self._last_token_ns = 0
        self._queued = True

    def observe(self, event: Event) -> None:
        call = self._call
        call.note_times(event.queue_ns, event.compute_ns)
        if self._queued:
            self._queued = False
            self._queue_seconds.observe(event.queue_ns / 1e9)
        if event.token is not None:
            self._observe_token()
        elif event.rows or event.vectors or event.scores or event.seen:
            call.note_output()

    def _observe_token(self) -> None:
        call = self._call
        call.note_output()
        call.output_tokens += 1
        self._output_tokens.inc()
        now = time.perf_counter_ns()
        if self._last_token_ns:
            self._inter_token.observe((now - self._last_token_ns) / 1e9)
        else:
            self._first_token.observe(call.elapsed_ns() / 1e9)
        self._last_token_ns = now
