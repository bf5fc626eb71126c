"""Priorities with a real server: who waits for an answer passes work in the background."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import grpc
import pytest

from headstream.client import Client, PriorityName
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import embeddings_service_pb2_grpc, types_pb2
from server_process import Server, running_server, save_tiny_model

FLAGS = ("--dtype", "float32", "--max-num-seqs", "4", "--kv-cache-bytes", str(64 << 20))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with running_server(save_tiny_model(tmp_path_factory.mktemp("tiny")), *FLAGS) as server:
        yield server


def test_a_stream_passes_a_batch_that_holds_all_slots(running: Server) -> None:
    """It ends while all of the batch, which came first, still runs or waits."""
    ended = list[str]()

    def ask(name: str, num_tokens: int, priority: PriorityName) -> None:
        with Client(running.address) as client:
            steps = client.generate(
                "The chicken", max_new_tokens=num_tokens, ignore_eos=True, priority=priority
            )
            for number, _ in enumerate(steps):
                if number == 10:
                    under_way.release()
        ended.append(name)

    under_way = threading.Semaphore(0)
    batch = [threading.Thread(target=ask, args=("batch", 1500, "batch")) for _ in range(8)]
    for thread in batch:
        thread.start()
    for _ in range(4):
        under_way.acquire()
    urgent = threading.Thread(target=ask, args=("urgent", 30, "high"))
    urgent.start()
    urgent.join()
    assert ended == ["urgent"]
    for thread in batch:
        thread.join()
    assert ended == ["urgent", *["batch"] * 8]
    values = running.metrics()
    assert values["preemptions_total", "tiny"] > 0
    assert values["queue_seconds_count", "tiny", "batch"] == 8
    assert values["queue_seconds_count", "tiny", "high"] == 1
    assert values["queue_first_steps", "tiny", "batch"] == 0


def test_a_word_that_nobody_knows_is_refused_and_vectors_are_the_same(running: Server) -> None:
    with Client(running.address) as client:
        with pytest.raises(ValueError, match="priority 'urgent' is none of batch, normal, high"):
            client.generate("The chicken", priority="urgent")  # type: ignore[arg-type]
        vector = client.embed("a text")
        assert (client.embed("a text", priority="batch") == vector).all()


def test_a_number_that_no_priority_has_is_refused(running: Server) -> None:
    stub: Any = embeddings_service_pb2_grpc.EmbeddingsServiceStub(running.channel)
    item = pb.EmbedInput(input=types_pb2.Input(text="a text"))
    request: Any = pb.EmbedRequest(inputs=[item])
    request.priority = 7
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(request, timeout=60)
    assert "priority: 7 is not in [0, 3]" in str(caught.value)
