"""EmbedStream of the real server through the real clients."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from headstream.client import AsyncClient, Client, FailedItem, StreamBroken
from server_process import Server, running_server

METHOD = "headstream.v1.EmbeddingsService/EmbedStream"
PLACES = 16


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Generator[Server]:
    flags = ["--dtype", "float32", "--max-stream-items", str(PLACES)]
    with running_server(tiny_model, *flags) as server:
        yield server


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def items(running: Server) -> float:
    return running.metrics().get(("stream_items", "tiny"), 0)


def nothing_is_held(running: Server) -> bool:
    values = running.metrics()
    names = ("sequences_running", "queue_depth", "kv_blocks_used", "stream_items")
    held = [values.get((name, "tiny"), 0.0) for name in names]
    return not any(held) and values.get(("requests_open", METHOD), 0.0) == 0


def endless() -> Iterator[str]:
    while True:
        yield "The chicken"


def test_the_vectors_are_those_of_embed_and_bad_texts_fail_alone(running: Server) -> None:
    texts = [f"{'fish ' * (i % 7)}{i}" for i in range(300)]
    texts[5] = texts[250] = ""
    texts[100] = "x" * 100_000
    with Client(running.address) as client:
        assert client.model().limits.max_stream_items == PLACES
        found = dict(client.embed_stream(texts))
        failed = {i: each for i, each in found.items() if isinstance(each, FailedItem)}
        assert set(failed) == {5, 100, 250}
        assert failed[5] == FailedItem(5, "INVALID_FIELD", "item.input.text: is empty")
        assert "bytes; the limit is" in failed[100].message
        good = [i for i in range(300) if i not in failed]
        for at in range(0, len(good), 50):
            some = good[at : at + 50]
            expected = client.embed([texts[i] for i in some])
            assert np.array_equal(np.stack([np.asarray(found[i]) for i in some]), expected)
    until(lambda: nothing_is_held(running))


async def test_the_async_client_gets_the_same(running: Server) -> None:
    texts = [(f"id {i}", f"fish {i}") for i in range(100)]
    async with AsyncClient(running.address) as client:
        found = {own: vector async for own, vector in client.embed_stream(texts)}
        expected = await client.embed([text for _, text in texts[:50]])
    assert set(found) == {own for own, _ in texts}
    assert all(np.array_equal(np.asarray(found[texts[i][0]]), expected[i]) for i in range(50))


def test_no_more_is_in_flight_than_allowed(running: Server) -> None:
    seen: set[float] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.add(items(running))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Client(running.address) as client, client.embed_stream(endless()) as stream:
            for _ in range(2000):
                next(stream)
            time.sleep(0.5)  # and a reader who rests
    finally:
        over.set()
        watcher.join()
    assert 0 < max(seen) <= PLACES
    until(lambda: nothing_is_held(running))


def test_who_leaves_frees_everything(running: Server) -> None:
    for i in range(30):
        with Client(running.address) as client:
            stream = client.embed_stream(endless())
            for _ in range(i % 3 * 50):
                next(stream)
            time.sleep(i * 1e-3)
            stream.close()
    until(lambda: nothing_is_held(running))


def test_draining_breaks_it_and_the_rest_is_known(tiny_model: Path) -> None:
    with running_server(tiny_model) as running, Client(running.address) as client:
        stream = client.embed_stream(((i, "fish") for i in range(1_000_000)), look_ahead=100)
        answered = {next(stream)[0] for _ in range(50)}
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(StreamBroken, match="draining") as caught:
            answered.update(number for number, _ in stream)
        assert caught.value.code == "UNAVAILABLE"
        assert running.process.wait(60) == 0
        assert len(answered) == caught.value.index
        assert 0 < len(stream.unanswered) <= 100
        assert answered.isdisjoint(stream.unanswered)
        assert answered | set(stream.unanswered) == set(
            range(len(answered) + len(stream.unanswered))
        )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_is_flat_over_many_texts(tiny_model: Path) -> None:
    """Of the client, the front and the engine, while 100,000 texts go through."""
    total, measured = 100_000, list[list[int]]()
    with running_server(tiny_model, "--dtype", "float32") as running:
        processes = [psutil.Process(), psutil.Process(running.process.pid), *running.engines()]
        with Client(running.address) as client:
            for count, _ in enumerate(client.embed_stream("a b" for _ in range(total)), start=1):
                if count % 10_000 == 0:
                    measured.append([each.memory_info().rss for each in processes])
    grown = np.array(measured[-1]) - np.array(measured[1])
    assert len(measured) == total / 10_000
    assert (grown < 16 << 20).all(), [[rss >> 20 for rss in each] for each in measured]
