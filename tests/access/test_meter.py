"""Quotas against a clock that the test moves."""

from __future__ import annotations

import pytest

from headstream.access.meter import Meter
from headstream.access.refusal import Refusal
from headstream.access.tokens import Quota


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def refusal(meter: Meter) -> Refusal:
    with pytest.raises(Refusal) as caught:
        meter.enter()
    return caught.value


def test_a_rate_lets_its_share_of_every_second_in() -> None:
    clock, begun = Clock(), 0
    meter = Meter("alice", Quota(requests_per_second=4), 1, clock)
    for _ in range(1000):  # ten seconds of a caller who tries every 10 ms
        try:
            meter.enter()
        except Refusal:
            pass
        else:
            begun += 1
        clock.now += 0.01
    assert begun == 4 + 39, "those of a second at once, then one every 250 ms"


def test_who_waits_as_told_is_let_in() -> None:
    clock = Clock()
    meter = Meter("alice", Quota(requests_per_second=0.5), 1, clock)
    meter.enter()
    told = refusal(meter)
    assert (told.reason, told.retry_after_s, told.tenant) == ("QUOTA_EXCEEDED", 2, "alice")
    assert told.message == "requests_per_second: the quota is 0.5; try again in 2 s"
    clock.now += 1.99
    left = refusal(meter).retry_after_s
    assert left is not None
    assert 0.01 <= left <= 0.011
    clock.now += left
    meter.enter()


def test_calls_under_way_are_counted_until_they_end() -> None:
    meter = Meter("alice", Quota(requests_at_once=2), 3, Clock())
    meter.enter()
    meter.enter()
    assert refusal(meter).message == "requests_at_once: the quota is 2; try again in 3 s"
    meter.leave(10**9)
    meter.enter()
    refusal(meter)


def test_tokens_that_were_used_are_paid_off_before_the_next_call() -> None:
    clock = Clock()
    meter = Meter("alice", Quota(tokens_per_second=100), 1, clock)
    meter.enter()
    meter.enter()  # nothing has been used yet
    meter.leave(350)
    told = refusal(meter)
    assert told.retry_after_s == pytest.approx(2.51)
    clock.now += 2.5
    refusal(meter)
    clock.now += 0.011
    meter.enter()


def test_a_refused_call_counts_nowhere() -> None:
    clock = Clock()
    meter = Meter("alice", Quota(requests_per_second=1, requests_at_once=1), 1, clock)
    meter.enter()
    for _ in range(5):
        refusal(meter)
    meter.leave(0)
    clock.now += 1
    meter.enter()


def test_without_quotas_everything_is_let_in() -> None:
    meter = Meter("alice", Quota(), 1, Clock())
    for _ in range(1000):
        meter.enter()
