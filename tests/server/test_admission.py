from __future__ import annotations

import pytest

from headstream.server.admission import Admission
from headstream.server.errors import QueueFull


def make(max_requests: int = 2, max_tokens: int = 10) -> Admission:
    return Admission(max_requests, max_tokens, retry_after_s=1.0)


def test_requests_at_the_limit_and_beyond() -> None:
    queue = make()
    with queue.enter(), queue.enter():
        with (
            pytest.raises(QueueFull, match="2 requests are waiting; the limit is 2"),
            queue.enter(),
        ):
            pass
        assert queue.requests == 2
    assert queue.requests == 0


def test_tokens_at_the_limit_and_beyond() -> None:
    queue = make()
    with queue.enter() as first, queue.enter() as second:
        queue.charge(first, [4])
        with pytest.raises(QueueFull, match="4 tokens are waiting; the limit is 10"):
            queue.charge(second, [7])
        queue.charge(second, [6])
        assert queue.tokens == 10
    assert queue.tokens == 0


def test_who_has_started_waits_no_more() -> None:
    queue = make(max_requests=1)
    with queue.enter() as [ticket]:
        queue.charge([ticket], [9])
        ticket.release()
        ticket.release()
        assert (queue.requests, queue.tokens) == (0, 0)
        with queue.enter():
            assert queue.requests == 1
    assert (queue.requests, queue.tokens) == (0, 0)


def test_an_empty_queue_takes_any_request() -> None:
    queue = make()
    with queue.enter(64) as tickets:
        queue.charge(tickets, [100] * 64)
        assert queue.tokens == 6400
    assert (queue.requests, queue.tokens) == (0, 0)


def test_a_failed_request_leaves_nothing_behind() -> None:
    queue = make()

    def fail() -> None:
        with queue.enter() as tickets:
            queue.charge(tickets, [3])
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert (queue.requests, queue.tokens) == (0, 0)
