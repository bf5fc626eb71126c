from __future__ import annotations

import pytest

from headstream.server.engine.messages import StepReport, StepStats
from headstream.server.liveness import STUCK_SECONDS, Heartbeat


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def report(step: int, running: int, *, blocked: bool = False) -> StepReport:
    return StepReport((), StepStats(step, 1, 1, 1, running, 0, 0, 0, 1, 0, blocked=blocked))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_loading_is_alive(clock: Clock) -> None:
    heartbeat = Heartbeat(clock)
    clock.now = 1000
    assert heartbeat.alive


def test_idle_is_alive_while_it_reports(clock: Clock) -> None:
    heartbeat = Heartbeat(clock)
    for _ in range(3):
        heartbeat.observe(report(step=5, running=0))
        clock.now += STUCK_SECONDS
        assert heartbeat.alive
    clock.now += 1
    assert not heartbeat.alive


def test_work_without_steps_is_not_alive(clock: Clock) -> None:
    heartbeat = Heartbeat(clock)
    for _ in range(100):  # long idle
        heartbeat.observe(report(step=5, running=0))
        clock.now += 1
    for _ in range(int(STUCK_SECONDS) + 1):
        heartbeat.observe(report(step=5, running=1))
        assert heartbeat.alive
        clock.now += 1
    heartbeat.observe(report(step=5, running=1))
    assert not heartbeat.alive
    heartbeat.observe(report(step=6, running=1))
    assert heartbeat.alive


def test_an_engine_that_waits_for_readers_is_alive(clock: Clock) -> None:
    heartbeat = Heartbeat(clock)
    heartbeat.observe(report(step=5, running=1))
    for _ in range(100):
        heartbeat.observe(report(step=5, running=1, blocked=True))
        assert heartbeat.alive
        clock.now += 1
    heartbeat.observe(report(step=5, running=1))  # they read on, and nothing comes
    for _ in range(int(STUCK_SECONDS) + 1):
        assert heartbeat.alive
        clock.now += 1
        heartbeat.observe(report(step=5, running=1))
    assert not heartbeat.alive
