"""The texts of a stream between their reading and their answers."""

import pickle

import numpy as np
import pytest

from client_messages import stream_answer
from headstream.client._stream_items import StreamItems, split
from headstream.v1 import embeddings_service_pb2 as pb

CHAT = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("ab", (9, "ab")),
        ([5, 6], (9, [5, 6])),
        ((5, 6), (9, (5, 6))),
        ((5, "ab"), (5, "ab")),
        (("id", [5, 6]), ("id", [5, 6])),
        (("id", CHAT), ("id", CHAT)),
        (CHAT * 2, (9, CHAT * 2)),
        (tuple(CHAT * 2), (9, tuple(CHAT * 2))),
    ],
)
def test_what_is_an_id(item, expected):
    assert split(item, 9) == expected


def test_a_message_gathers_more_the_more_is_under_way():
    items = StreamItems[int](1000)
    sizes = []
    for _ in range(400):
        items.add("x")
        if items.is_due:
            sizes.append(size_of(items.take()))
    assert sizes == [1, 1, 2, 4, 8, 16, 32, 64, 64, 64, 64, 64]
    assert size_of(items.take()) > 0
    assert items.take() is None


def size_of(message: pb.EmbedStreamRequest | None) -> int:
    assert message is not None
    return len(message.items)


def test_a_message_is_sent_before_there_is_no_room():
    items = StreamItems[int](3)
    for _ in range(3):
        items.add("x")
        while items.is_due:
            items.take()
    assert not items.has_room
    assert items.take() is None


def test_a_message_has_few_bytes():
    items = StreamItems[int](1000)
    for _ in range(100):
        items.add("x")
    items.take()
    items.add("x" * 300_000)
    assert items.is_due


def test_vectors_are_arrays():
    items = StreamItems[str](10)
    items.add(("a", "xyz"))
    message = items.take()
    assert message is not None
    reply = pb.EmbedStreamResponse(answers=map(stream_answer, message.items))
    reply.answers[0].result.embedding.truncated = True
    [answer] = items.feed(reply)
    own_id, vector = answer
    assert own_id == "a"
    assert isinstance(vector, np.ndarray)
    assert vector.dtype == np.float32
    assert vector.tolist() == [3, 1]
    assert answer.truncated
    copied = pickle.loads(pickle.dumps(answer))
    assert (copied[0], copied[1].tolist(), copied.truncated) == ("a", [3, 1], True)
