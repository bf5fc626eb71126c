"""What is acknowledged stays: kill -9 in the middle of adds, and one text embedded once."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import threading
import time
from collections.abc import Generator, Iterable
from pathlib import Path

import grpc
import pytest

from headstream.v1 import lookup_service_pb2 as pb
from lookup_process import Lookup, lookup_command, running_lookup
from server_process import Server, running_server

ADDED, REPLACED, UNCHANGED = (
    pb.ADD_OUTCOME_ADDED,
    pb.ADD_OUTCOME_REPLACED,
    pb.ADD_OUTCOME_UNCHANGED,
)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Generator[Server]:
    with running_server(tiny_model) as running:
        yield running


def text_of(name: str) -> str:
    return f"This is document {name}. It has two sentences of its own."


def add_until_killed(lookup: Lookup, names: Iterable[str], acknowledged: list[str]) -> None:
    """One document a call, in three threads; ends when the service is gone."""
    names, lock = iter(names), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                name = next(names)
            try:
                lookup.add({name: text_of(name)}, words=True)
            except grpc.RpcError:
                return
            acknowledged.append(name)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    count = len(acknowledged)
    while len(acknowledged) < count + 8:
        time.sleep(0.01)
    lookup.process.kill()
    for thread in threads:
        thread.join()


def missing(lookup: Lookup, names: Iterable[str]) -> list[str]:
    """Those of which not every chunk and word is found."""

    def whole(name: str) -> bool:
        only = pb.Filter(document_ids=[name])
        chunks = lookup.search("document", filter=only, limit=1000)
        words = lookup.search_word("a document", "document", filter=only, limit=1000)
        return "".join(hit.text for hit in chunks) == text_of(name) and len(words) == 11

    return [name for name in names if not whole(name)]


@pytest.mark.slow
def test_kill_9_loses_nothing_acknowledged(tiny: Server, tmp_path: Path) -> None:
    """Three kills of one store. A copy made before the last is the control: it lacks what came."""
    store, copy = tmp_path / "store", tmp_path / "copy"
    acknowledged: list[str] = []
    known = 0  # of them, when the copy was made
    names = (f"d{i}" for i in itertools.count())
    for _ in range(3):
        if store.exists():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(store, copy)
            known = len(acknowledged)
        with running_lookup(tiny.address, store) as lookup:
            add_until_killed(lookup, names, acknowledged)
    assert len(acknowledged) == len(set(acknowledged)) >= 24
    with running_lookup(tiny.address, store) as lookup:
        assert missing(lookup, acknowledged) == []
        again = [lookup.add({n: text_of(n)}, words=True).outcomes[0] for n in acknowledged]
        assert set(again) == {UNCHANGED}
        assert lookup.stats().embedded < 100  # the queries of `missing`
    with running_lookup(tiny.address, copy) as lookup:
        lost = missing(lookup, acknowledged)
        # Those in flight at the kill may be in the copy or not; all acknowledged later are not.
        assert set(lost) <= set(acknowledged[known:])
        assert len(lost) >= 8 - 3


def test_adding_again_changes_nothing(lookup: Lookup) -> None:
    texts = {"a": "The first text.", "b": "The second text."}
    assert list(lookup.add(texts, words=True).outcomes) == [ADDED, ADDED]
    before = lookup.stats()
    reply = lookup.add(texts, words=True)
    assert (list(reply.outcomes), reply.embedded, reply.cached) == ([UNCHANGED] * 2, 0, 0)
    assert lookup.stats() == before
    reply = lookup.add({"b": "Another text.", "c": "A third."}, words=True)
    assert list(reply.outcomes) == [REPLACED, ADDED]
    assert {hit.text for hit in lookup.search("text")} == {
        "The first text.",
        "Another text.",
        "A third.",
    }
    assert list(lookup.add(texts, words=True, kind="x").outcomes) == [REPLACED, REPLACED]
    assert list(lookup.add(texts, kind="x").outcomes) == [REPLACED, REPLACED]  # without words
    assert {hit.document_id for hit in lookup.search_word("third", "third")} == {"c"}


def test_no_text_is_embedded_twice(lookup: Lookup, minilm: Server) -> None:
    """Counted at the Headstream server: under another name, after deletion, in one request."""

    def embeds() -> float:
        counts = minilm.metrics()
        return sum(
            value
            for name, value in counts.items()
            if name[0] == "requests_total" and "headstream.v1.EmbeddingsService/Embed" in name
        )

    text = "A text of two sentences. This is the second of them."
    start = embeds()
    assert lookup.add({"a": text}, words=True).embedded == 1 + 11
    assert embeds() == start + 1
    reply = lookup.add({"b": text, "c": text}, words=True)
    assert (reply.embedded, reply.cached) == (0, 24)
    lookup.delete("a", "b", "c")
    assert lookup.add({"d": text}, words=True).cached == 12
    assert embeds() == start + 1
    reply = lookup.add(dict.fromkeys("efgh", "Said by all of them."))
    assert (reply.embedded, reply.cached) == (1, 3)
    lookup.search("Who is it?")
    assert embeds() == start + 3
    lookup.search("Who is it?")
    assert embeds() == start + 3


def test_chunks_are_known_where_words_were_asked_for(lookup: Lookup) -> None:
    """And the other way round the words are read: nothing has computed them."""
    text = "Here stands a sentence. Behind it stands one more, which is the last."
    assert lookup.add({"a": text}, words=True).embedded == 1 + 13
    chunks = [(hit.text, hit.score) for hit in lookup.search("stands")]
    reply = lookup.add({"a": text})
    assert (list(reply.outcomes), reply.embedded, reply.cached) == ([REPLACED], 0, 1)
    assert [(hit.text, hit.score) for hit in lookup.search("stands")] == chunks
    other = text.replace("last", "end")
    assert lookup.add({"b": other}).embedded == 1
    assert lookup.add({"b": other}, words=True).embedded == 1 + 13


def refusal(server: str, store: Path) -> str:
    done = subprocess.run(
        lookup_command(server, store), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1
    return done.stderr


def test_another_model_is_refused_at_start(tiny: Server, minilm: Server, tmp_path: Path) -> None:
    with running_lookup(tiny.address, tmp_path) as lookup:
        lookup.add({"a": "A text."})
    said = refusal(minilm.address, tmp_path)
    assert "the model is not the one whose vectors are kept" in said
    assert "weights_sha256" in said
    assert "dimensions is 384, was 64" in said


def test_another_model_is_refused_while_running(tiny_model: Path, tmp_path: Path) -> None:
    """The server behind the address becomes another one: of the same weights, rounded otherwise."""
    with running_server(tiny_model, "--dtype", "float32") as server:
        port = server.address.rpartition(":")[2]
        with running_lookup(server.address, tmp_path) as lookup:
            lookup.add({"a": "A text."})
            server.process.kill()
            server.process.wait()
            with running_server(tiny_model, "--dtype", "bfloat16", "--port", port):
                with pytest.raises(grpc.RpcError) as caught:
                    lookup.add({"b": "Another text."})
                error: grpc.RpcError = caught.value
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
                assert "dtype is 'bfloat16', was 'float32'" in str(error.details())
                assert "MODEL_CHANGED" in str(error.trailing_metadata())
                # What is kept is still served, and nothing of the new model is among it.
                assert list(lookup.add({"a": "A text."}).outcomes) == [UNCHANGED]
                vector = pb.QueryVector(values=[1.0] * 64)
                assert [hit.document_id for hit in lookup.search(vector=vector)] == ["a"]


def test_a_store_has_one_writer(tiny: Server, tmp_path: Path) -> None:
    with running_lookup(tiny.address, tmp_path):
        assert "in use by another lookup service" in refusal(tiny.address, tmp_path)


def test_without_a_server(tmp_path: Path) -> None:
    assert "127.0.0.1:1" in refusal("127.0.0.1:1", tmp_path)
