"""Vectors of documents and queries, from a Headstream server or from the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import ParamSpec, TypeVar

import grpc
import numpy as np

from headstream.client import (
    AsyncClient,
    DeadlineExceeded,
    EmbedError,
    HeadstreamError,
    ModelInfo,
    ResourceExhausted,
    RpcError,
    Unavailable,
)
from headstream.lookup import chunks
from headstream.lookup.cache import VectorCache, Vectors, content_key
from headstream.lookup.chunks import Range
from headstream.lookup.errors import ModelChanged, ModelRefused, ModelUnavailable, ServiceError
from headstream.lookup.identity import Identity
from headstream.lookup.reading import Reading

IN_FLIGHT = 2
"""Texts at the server at once: one is computed while the next arrives."""
BUSY_SECONDS = 60.0
"""All pauses together, for one call, in which a server that has too much to do is waited for."""
BUSY = {"QUEUE_FULL", "DEADLINE_TOO_SHORT"}
"""The reasons with which it says so."""
BUSY_PAUSE_SECONDS = 0.2
"""Between two tries, where the server names no time."""
REPLY_BYTES = 3 << 20
"""Of the vectors of one window, within the 4 MiB of a message."""
SPARE_TOKENS = 8
"""Of a window: special tokens, and words that split otherwise where a text is cut."""

Result = TypeVar("Result")
Params = ParamSpec("Params")


class Embedder:
    """One model of one server; refuses to go on when it becomes another."""

    def __init__(
        self,
        client: AsyncClient,
        info: ModelInfo,
        cache: VectorCache,
        *,
        chunk_tokens: int,
    ) -> None:
        """``info`` is the model as it was when the service started."""
        self.identity = Identity.of(info)
        self.computed = 0  # vectors, since the start
        self.cached = 0
        self._client = client
        self._model = info.name
        self._cache = cache
        self._prompts = info.embedding.prompts
        # A prompt has at most as many tokens as bytes.
        prompt = len(self._document_prompt.encode())
        self._max_bytes = info.limits.max_text_bytes - prompt
        room = info.limits.max_model_tokens - SPARE_TOKENS - prompt
        self._window = max(1, min(room, REPLY_BYTES // (4 * self.identity.dimensions)))
        self._chunk = min(chunk_tokens, self._window)
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._running: dict[bytes, asyncio.Future[Vectors]] = {}

    @property
    def _document_prompt(self) -> str:
        return self._prompts.get(self.identity.document_prompt, "")

    async def read(self, text: str, *, words: bool) -> Reading:
        """The chunks of a document, and its words if wanted, with their vectors.

        Raises:
            ModelChanged: The server serves other weights now.
            ModelRefused: The model cannot read the text.
            ModelUnavailable: No server answers.
        """
        tokens = await self._tokens(text)
        if not tokens:
            return Reading.nothing(self.identity.dimensions)
        units = chunks.units(text, tokens, self._max_bytes // self._chunk)
        spans = chunks.with_tokens(chunks.cut(text, units, self._chunk), tokens)
        sizes = chunks.sizes(text, spans, units, self._window / self._max_bytes)
        reads = (
            self._read_window(text, window, tokens if words else ())
            for window in chunks.windows(spans, sizes, self._window)
        )
        return Reading.join(await asyncio.gather(*reads))

    async def query(self, text: str) -> Vectors:
        """The vector [d] of a text to search for. Raises as `read`."""
        prompt = self._prompts.get(self.identity.query_prompt, "")
        vectors, _ = await self._vectors(text, (), prompt)
        return vectors[0, :]

    async def word(self, text: str, span: Range) -> Vectors:
        """The vector [d] of a part of a text, made as those of documents. Raises as `read`."""
        vectors, _ = await self._vectors(text, (span,), self._document_prompt)
        return vectors[0, :]

    async def _read_window(
        self, text: str, window: chunks.Window, tokens: Sequence[Range]
    ) -> Reading:
        """``tokens`` are for finding words; none: no words."""
        found = [
            (index, word)
            for index, chunk in enumerate(window.chunks)
            for word in chunks.with_tokens(chunks.words(text, chunk), tokens)
        ]
        ranges = [*window.chunks, *(word for _, word in found)]
        spans = tuple((start - window.start, end - window.start) for start, end in ranges)
        part = text[window.start : window.end]
        vectors, new = await self._vectors(part, spans, self._document_prompt)
        count, computed = len(window.chunks), len(vectors) if new else 0
        if new and found:  # the same text without its words is known now, too
            self._cache.put(self._key(part, spans[:count], self._document_prompt), vectors[:count])
        return Reading(list(window.chunks), vectors[:count], found, vectors[count:], computed)

    async def _tokens(self, text: str) -> list[Range]:
        """Where the tokens of a text are, in however many pieces the server takes it."""
        found: list[Range] = []
        for start, end in chunks.pieces(text, self._max_bytes):
            piece = text[start:end]
            table = await self._call(
                self._client.tokenize, piece, model=self._model, skip_special_tokens=True
            )
            found += [(start + first, start + last) for first, last in table.offsets]
        return found

    async def _vectors(
        self, text: str, spans: tuple[Range, ...], prompt: str
    ) -> tuple[Vectors, bool]:
        """[number of spans or 1, d], of length 1, and whether they were computed for this call.

        They are computed once, also for two who ask at once.
        """
        key = self._key(text, spans, prompt)
        running = self._running.get(key)
        kept = self._cache.get(key) if running is None else await asyncio.shield(running)
        if kept is not None:
            self.cached += len(kept)
            return kept, False
        task = asyncio.create_task(self._compute(key, text, spans, prompt))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key))
        # Shielded: whoever asked first may leave, and others may wait for it as well.
        return await asyncio.shield(task), True

    def _key(self, text: str, spans: tuple[Range, ...], prompt: str) -> bytes:
        return content_key(self.identity.digest, prompt, text, spans)

    async def _compute(
        self, key: bytes, text: str, spans: tuple[Range, ...], prompt: str
    ) -> Vectors:
        vectors = await self._call(self._embed, text, spans, prompt)
        # Asked afterwards: had the server been changed before, it would say so now.
        await self.check()
        self.computed += len(vectors)
        self._cache.put(key, vectors)
        return vectors

    async def _embed(self, text: str, spans: tuple[Range, ...], prompt: str) -> Vectors:
        """[number of spans or 1, d]. One try: no slot is held while the server is waited for."""
        async with self._slots:
            if spans:
                found = await self._client.embed_spans(
                    text, spans, model=self._model, prompt=prompt, normalize=True
                )
            else:
                found = await self._client.embed(
                    [text], model=self._model, prompt=prompt, normalize=True
                )
        return np.ascontiguousarray(found, np.float32)

    async def check(self) -> None:
        """Make sure that the server still computes the vectors of the store.

        Raises:
            ModelChanged: It does not.
            ModelUnavailable: It does not answer, or is still loading.
        """
        info = await self._call(self._client.model, self._model)
        if info.state != "serving":
            raise ModelUnavailable(f"model {info.name} is {info.state}")
        difference = self.identity.difference(Identity.of(info))
        if difference:
            raise ModelChanged(difference)

    async def _call(
        self,
        method: Callable[Params, Awaitable[Result]],
        *args: Params.args,
        **kwargs: Params.kwargs,
    ) -> Result:
        """Call the server; while it has too much to do, wait."""
        patience = BUSY_SECONDS
        while True:
            try:
                return await method(*args, **kwargs)
            except ResourceExhausted as error:
                pause = error.retry_after or BUSY_PAUSE_SECONDS
                if error.reason not in BUSY or pause > patience:
                    raise _failure(error) from error
                patience -= pause
                await asyncio.sleep(pause)
            except HeadstreamError as error:
                raise _failure(error) from error


def _failure(error: HeadstreamError) -> ServiceError:
    """What an error of the server means to those who called this service."""
    if isinstance(error, EmbedError):
        item = error.items[0]
        return ModelRefused(item.message, grpc.StatusCode.INVALID_ARGUMENT, item.reason)
    if isinstance(error, (Unavailable, DeadlineExceeded)) or not isinstance(error, RpcError):
        return ModelUnavailable(f"the Headstream server does not answer: {error}")
    return ModelRefused(str(error), grpc.StatusCode[error.code], error.reason)
