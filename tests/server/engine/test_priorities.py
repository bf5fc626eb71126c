"""Priorities in the engine: who goes first, who gives way, and that nobody starves."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from dry_run import BLOCK, step
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.messages import Submit
from headstream.server.engine.priority import Priority
from headstream.server.engine.scheduler import Scheduler
from headstream.server.engine.sequence import Sequence
from headstream.server.engine.waiting import PATIENCE

SLOTS = 8
BATCH, NORMAL, HIGH = Priority.BATCH, Priority.NORMAL, Priority.HIGH


def _scheduler(blocks: int = 2000, budget: int = 512) -> Scheduler:
    return Scheduler(BlockPool(blocks, BLOCK), budget, SLOTS)


def _sequence(
    number: int, priority: Priority, prompt: int = 20, new: int = 30, tenant: str = ""
) -> Sequence:
    ids = tuple(range(10_000 * number, 10_000 * number + prompt))  # no two share a beginning
    spec = Submit(number, ids, max_new_tokens=new, priority=priority, tenant=tenant)
    return Sequence(spec, arrival_ns=0)


def _steps_until_done(scheduler: Scheduler, number: int, most: int = 5000) -> int:
    for count in range(1, most):
        step(scheduler)
        if scheduler.get(number) is None:
            return count
    raise AssertionError("it never ended")


def _alone(priority: Priority, **fields: Any) -> int:
    scheduler = _scheduler()
    scheduler.add(_sequence(1, priority, **fields))
    return _steps_until_done(scheduler, 1)


def _behind_a_flood(priority: Priority, flood: Priority, steps_before: int, **fields: Any) -> int:
    """Steps of one request behind 100 of another priority, which generate for long."""
    scheduler = _scheduler()
    for number in range(2, 82):
        scheduler.add(_sequence(number, flood, new=60))
    for _ in range(steps_before):
        step(scheduler)
    scheduler.add(_sequence(1, priority, **fields))
    return _steps_until_done(scheduler, 1)


@pytest.mark.parametrize(("priority", "flood"), [(NORMAL, BATCH), (HIGH, NORMAL), (HIGH, BATCH)])
@pytest.mark.parametrize("steps_before", [0, 20, 70])
def test_a_flood_of_less_urgent_ones_delays_a_request_hardly(
    priority: Priority, flood: Priority, steps_before: int
) -> None:
    """By the steps at most for which those who have just started keep their slots."""
    assert _behind_a_flood(priority, flood, steps_before) <= _alone(priority) + 9


@pytest.mark.parametrize("priority", Priority)
def test_a_flood_of_its_own_priority_delays_it_by_all_of_the_flood(priority: Priority) -> None:
    """The control."""
    assert _behind_a_flood(priority, priority, 20) > 8 * _alone(priority)


def test_the_more_urgent_start_first_and_in_order_of_arrival() -> None:
    scheduler = _scheduler()
    kinds = [BATCH, NORMAL, HIGH, NORMAL, BATCH, HIGH]
    for number, priority in enumerate(kinds):
        scheduler.add(_sequence(number, priority))
    assert list(step(scheduler)) == [2, 5, 1, 3, 0, 4]


def test_a_long_prompt_of_a_batch_lets_an_urgent_one_pass() -> None:
    """Its prompt is read later, not first."""
    for priority, expected in ((NORMAL, [1]), (BATCH, [2])):
        scheduler = _scheduler()
        scheduler.add(_sequence(1, priority, prompt=5000))
        step(scheduler)
        scheduler.add(_sequence(2, NORMAL, prompt=2000))
        step(scheduler)
        step(scheduler)
        assert list(step(scheduler)) == expected


def test_who_is_displaced_was_the_youngest_of_the_least_urgent() -> None:
    scheduler = _scheduler()
    for number, priority in enumerate([BATCH, BATCH, NORMAL, NORMAL, BATCH, BATCH, NORMAL, HIGH]):
        scheduler.add(_sequence(number, priority, new=500))
    for _ in range(10):
        step(scheduler)
    scheduler.add(_sequence(100, HIGH, new=500))
    step(scheduler)
    scheduler.add(_sequence(101, HIGH, new=500))
    rows = step(scheduler)
    assert set(range(8)) - rows.keys() == {4, 5}
    assert scheduler.preemptions == 2


def test_nothing_is_displaced_in_vain() -> None:
    """Whoever asks needs more memory than the batch has."""
    scheduler = _scheduler(blocks=40, budget=4096)
    scheduler.add(_sequence(1, NORMAL, prompt=24 * BLOCK, new=100))
    scheduler.add(_sequence(2, BATCH, prompt=20, new=100))
    for _ in range(20):
        step(scheduler)
    scheduler.add(_sequence(3, NORMAL, prompt=38 * BLOCK, new=1))
    for _ in range(10):
        step(scheduler)
    assert scheduler.preemptions == 0


def test_memory_is_taken_from_the_batch_first() -> None:
    """Without priorities the youngest would lose, which is the urgent one here."""
    for priority, loser in ((BATCH, 1), (NORMAL, 2)):
        scheduler = _scheduler(blocks=20)
        scheduler.add(_sequence(1, priority, prompt=8 * BLOCK, new=4 * BLOCK))
        step(scheduler)
        scheduler.add(_sequence(2, NORMAL, prompt=8 * BLOCK, new=4 * BLOCK))
        running: set[int] = set()
        while not scheduler.preemptions:
            running = {*step(scheduler)}
        assert {1, 2} - running == {loser}


def _waiting_time(flood: Priority, priority: Priority, place: int) -> int:
    """Steps until a request starts, behind ``place`` of its like, while others never cease."""
    scheduler = _scheduler()
    for number in range(1, place + 1):
        scheduler.add(_sequence(number, priority, new=1))
    asked = _sequence(999, priority, new=1)
    number = 1000
    for count in range(10_000):
        while scheduler.num_waiting_of(flood) < 2 * SLOTS:
            number += 1
            scheduler.add(_sequence(number, flood, new=3))
        if count == 1:
            scheduler.add(asked)
        step(scheduler)
        if asked.start_step:
            return count
    raise AssertionError("it never started")


@pytest.mark.parametrize(("flood", "priority"), [(NORMAL, BATCH), (HIGH, BATCH), (HIGH, NORMAL)])
@pytest.mark.parametrize("place", [0, 5])
def test_nobody_starves(flood: Priority, priority: Priority, place: int) -> None:
    """Each of its line takes 32 steps that start others, which here is at least each third one."""
    assert PATIENCE <= _waiting_time(flood, priority, place) <= (place + 1) * 3 * (PATIENCE + 2)


@pytest.mark.parametrize("flood", [BATCH, NORMAL])
@pytest.mark.parametrize("steps_before", [40, 110, 400])
def test_who_waits_for_a_slot_is_not_passed_over(flood: Priority, steps_before: int) -> None:
    """All slots are taken for long, and nobody gets one: an urgent one need not stand behind."""
    scheduler = _scheduler()
    for number in range(2, 62):
        scheduler.add(_sequence(number, flood, new=2000))
    for _ in range(steps_before):
        step(scheduler)
    scheduler.add(_sequence(1, HIGH))
    assert 1 in step(scheduler)
    assert {each.priority for each in scheduler._waiting} == {flood}


def test_one_that_was_lifted_keeps_nobody_from_displacing() -> None:
    scheduler = _scheduler()
    for number in range(2, 2 + SLOTS):
        scheduler.add(_sequence(number, NORMAL, new=2000))
    for _ in range(10):
        step(scheduler)
    lifted = _sequence(100, BATCH)
    lifted.priority = HIGH
    scheduler.add(lifted)
    assert 100 not in step(scheduler), "it displaces nobody"
    scheduler.add(_sequence(101, HIGH))
    assert 101 in step(scheduler)


def test_slots_are_not_given_up_for_a_line_that_may_not_start() -> None:
    """An urgent one with siblings lacks slots; what others gave up would stand empty."""
    scheduler = _scheduler()
    for number in range(2, 2 + SLOTS):
        scheduler.add(_sequence(number, HIGH, new=500, tenant="alice"))
    step(scheduler)
    scheduler.add(_sequence(100, HIGH, tenant="alice"))
    scheduler.add(_sequence(101, NORMAL, tenant="bob"))
    for _ in range(5):
        assert len(step(scheduler)) == SLOTS
    assert scheduler.preemptions == 0


def test_steps_of_nobody_count_for_nothing() -> None:
    """Those who hold the slots wait for their readers."""
    scheduler = _scheduler()
    for number in range(2, 2 + SLOTS):
        scheduler.add(_sequence(number, NORMAL, new=2000))
    step(scheduler)
    for sequence in list(scheduler._holders):
        scheduler.pause(sequence, paused=True)
    waiting = _sequence(100, BATCH)
    scheduler.add(waiting)
    for _ in range(200):
        assert not step(scheduler)
    assert waiting.priority is BATCH


def test_a_prompt_under_way_does_not_starve() -> None:
    """Urgent prompts fill every step, and a batch's is read to its end all the same."""
    scheduler = _scheduler()
    batch = _sequence(1, BATCH, prompt=3000, new=1)
    scheduler.add(batch)
    step(scheduler)
    number = 1
    for _ in range(PATIENCE + 30):
        while scheduler.num_waiting < SLOTS:
            number += 1
            scheduler.add(_sequence(number, NORMAL, prompt=512, new=1))
        step(scheduler)
    assert scheduler.get(1) is None


@pytest.mark.parametrize("burst", [NORMAL, HIGH])
def test_a_batch_that_gives_way_again_and_again_comes_to_its_end(burst: Priority) -> None:
    """Bursts of urgent ones come whenever it has its slot again; four times it gives way."""
    scheduler = _scheduler()
    batch = _sequence(1, BATCH, new=200)
    scheduler.add(batch)
    number = 1
    for _ in range(600):
        if batch in scheduler._holders and not scheduler.num_waiting:
            for _ in range(SLOTS):
                number += 1
                scheduler.add(_sequence(number, burst, new=4))
        step(scheduler)
    assert scheduler.get(1) is None
    assert batch.times_displaced == 4


def test_tenants_share_within_a_priority_and_take_nothing_from_a_higher_one() -> None:
    scheduler = _scheduler()
    for number in range(1, SLOTS + 1):
        scheduler.add(_sequence(number, NORMAL, new=500, tenant="alice"))
    step(scheduler)
    scheduler.add(_sequence(100, BATCH, tenant="bob"))
    for _ in range(10):
        step(scheduler)
    assert scheduler.preemptions == 0
    scheduler.add(_sequence(101, NORMAL, tenant="bob"))
    step(scheduler)
    step(scheduler)
    running = Counter(each.spec.tenant for each in scheduler._holders.running)
    assert running == {"alice": 7, "bob": 1}


def test_random_priorities_leak_nothing_and_finish_all() -> None:
    for seed in range(20):
        draw = random.Random(seed)
        scheduler = _scheduler(blocks=60)
        left = {
            number: _sequence(
                number,
                draw.choice(list(Priority)),
                prompt=draw.randint(1, 300),
                new=draw.randint(1, 40),
                tenant=draw.choice(["", "a", "b"]),
            )
            for number in range(1, 40)
        }
        added = list(left)
        for _ in range(20_000):
            while added and draw.random() < 0.5:
                scheduler.add(left[added.pop(0)])
            step(scheduler)
            if draw.random() < 0.02 and (running := list(scheduler._holders)):
                scheduler.remove(draw.choice(running))
            scheduler.check_integrity()
            left = {n: each for n, each in left.items() if n in added or scheduler.get(n)}
            if not left:
                break
        assert not left
        assert (scheduler.num_waiting_tokens, scheduler.num_blocks_used) == (0, 0)
