"""One EmbedStream call: items in, answers out in any order, and few of them in between."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence

from headstream.server.embedder import Embedder
from headstream.server.errors import InvalidRequest, SessionExpired
from headstream.server.item_reader import Item, is_read_alone
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.wire.fields import check_count
from headstream.server.wire.model import to_fingerprint
from headstream.server.wire.tensors import CHUNK_BYTES
from headstream.v1 import embeddings_service_pb2 as pb

MAX_ITEMS = 1024
"""Of one message; how many are worked on at once is another limit."""


class EmbedStream:
    """A task reads the items; others read those texts that come together, and answer each of them.

    An item has a place from its beginning until the connection has taken its answer. So both an
    engine that is busy and a caller who does not read stop the reading of items, and gRPC's flow
    control stops the sender.
    """

    def __init__(
        self, model: LoadedModel, metrics: Metrics, embedder: Embedder, idle_seconds: float
    ) -> None:
        self._model = model
        self._embedder = embedder
        self._idle_seconds = idle_seconds
        self._gauge = metrics.stream_items.labels(model.name)
        self._places = asyncio.Semaphore(model.limits.max_stream_items)
        self._open = 0  # items that have a place
        self._makers: set[asyncio.Task[None]] = set()
        self._answers: deque[pb.EmbedStreamAnswer] = deque()  # not sent yet
        self._failure: BaseException | None = None  # of the whole stream
        self._news = asyncio.Event()  # for who sends the answers
        self._last_sign = time.monotonic()  # of the client, or to it

    async def replies(
        self, first: pb.EmbedStreamRequest, requests: AsyncIterator[pb.EmbedStreamRequest]
    ) -> AsyncGenerator[pb.EmbedStreamResponse]:
        """The answers. Closing the generator frees everything."""
        reader = asyncio.create_task(self._read(first, requests))
        reader.add_done_callback(lambda _: self._news.set())
        reply = pb.EmbedStreamResponse(
            fingerprint=to_fingerprint(self._model.name, self._model.ready)
        )
        try:
            while answers := await self._next_answers(reader):
                reply.answers.extend(answers)
                yield reply
                self._leave(len(answers))
                reply = pb.EmbedStreamResponse()
        finally:
            tasks = [reader, *self._makers]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._leave(self._open)

    async def _next_answers(self, reader: asyncio.Task[None]) -> list[pb.EmbedStreamAnswer]:
        """What is ready, as much as goes in a message; nothing once all items are answered."""
        while not self._answers:
            if self._failure is not None:
                raise self._failure
            if reader.done() and not self._open:
                reader.result()  # what the client did wrong, if anything
                return []
            self._news.clear()
            await self._news.wait()
        answers = [self._answers.popleft()]
        left = CHUNK_BYTES - _tensor_bytes(answers[0])
        while self._answers and (left := left - _tensor_bytes(self._answers[0])) >= 0:
            answers.append(self._answers.popleft())
        return answers

    async def _read(
        self, first: pb.EmbedStreamRequest, requests: AsyncIterator[pb.EmbedStreamRequest]
    ) -> None:
        """Begin items as there are places, until no more come or a message breaks a rule."""
        request: pb.EmbedStreamRequest | None = first
        while request is not None:
            self._check(request, is_first=request is first)
            items = deque(request.items)
            while items:
                await self._places.acquire()
                together = [items.popleft()]
                while items and not self._places.locked():
                    await self._places.acquire()
                    together.append(items.popleft())
                self._begin(together)
            request = await self._next_request(requests)

    def _check(self, request: pb.EmbedStreamRequest, *, is_first: bool) -> None:
        if request.HasField("item"):
            raise InvalidRequest("item", "is not taken; send items")
        for name in ("model", "options", "interventions", "priority"):
            if not is_first and any(field.name == name for field, _ in request.ListFields()):
                raise InvalidRequest(name, "belongs in the first message")
        check_count("items", request.items, 0, MAX_ITEMS)

    async def _next_request(
        self, requests: AsyncIterator[pb.EmbedStreamRequest]
    ) -> pb.EmbedStreamRequest | None:
        """None: no more come. The time in which items are being answered is not idle."""

        async def read() -> pb.EmbedStreamRequest | None:
            return await anext(requests, None)

        reading = asyncio.create_task(read())
        left = self._idle_seconds
        try:
            while not (await asyncio.wait({reading}, timeout=left))[0]:
                quiet = 0.0 if self._open else time.monotonic() - self._last_sign
                left = self._idle_seconds - quiet
                if left <= 0:
                    raise SessionExpired(f"no item for {self._idle_seconds:g} s")
            return reading.result()
        finally:
            reading.cancel()

    def _begin(self, items: Sequence[pb.EmbedStreamItem]) -> None:
        self._open += len(items)
        self._gauge.inc(len(items))
        together = [each for each in items if not is_read_alone(each.item)]
        for group in [together, *([each] for each in items if is_read_alone(each.item))]:
            if group:
                self._start(self._prepare(group))

    def _start(self, work: Coroutine[object, object, None]) -> None:
        maker = asyncio.create_task(work)
        self._makers.add(maker)
        maker.add_done_callback(self._ended)

    def _ended(self, maker: asyncio.Task[None]) -> None:
        self._makers.discard(maker)
        if not maker.cancelled() and (error := maker.exception()) is not None:
            self._failure = error  # raised again by whoever waits for answers
        self._news.set()

    async def _prepare(self, items: Sequence[pb.EmbedStreamItem]) -> None:
        """Items that begin at once are read together; from then on each lives alone."""
        read = await self._embedder.read("item", [each.item for each in items])
        for each, item in zip(items, read, strict=True):
            if isinstance(item, pb.EmbedResult):
                self._answers.append(pb.EmbedStreamAnswer(id=each.id, result=item))
            else:
                self._start(self._answer(each.id, item))

    async def _answer(self, item_id: int, item: Item) -> None:
        result = await self._embedder.answer(item)
        self._answers.append(pb.EmbedStreamAnswer(id=item_id, result=result))

    def _leave(self, count: int) -> None:
        """So many items have been answered, or are given up."""
        self._last_sign = time.monotonic()
        self._open -= count
        self._gauge.dec(count)
        for _ in range(count):
            self._places.release()


def _tensor_bytes(answer: pb.EmbedStreamAnswer) -> int:
    return len(answer.result.embedding.vectors.data)
