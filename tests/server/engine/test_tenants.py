"""Tenants that share an engine: whose turn it is, and what a flood of one does to another."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from dry_run import BLOCK, step
from headstream.model.outputs import LogitsSpec, Outputs, ScoreSpec
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.messages import Sibling, Submit
from headstream.server.engine.scheduler import Scheduler
from headstream.server.engine.sequence import Sequence

SLOTS = 8


def _scheduler(blocks: int = 2000, seqs: int = SLOTS) -> Scheduler:
    return Scheduler(BlockPool(blocks, BLOCK), 512, seqs)


def _sequence(
    sequence_id: int, tenant: str, prompt: int = 20, new: int = 30, siblings: int = 0
) -> Sequence:
    first = 1000 * sequence_id  # no two share a beginning
    others = tuple(Sibling(10_000 + 10 * sequence_id + i, i) for i in range(siblings))
    ids = tuple(range(first, first + prompt))
    spec = Submit(sequence_id, ids, max_new_tokens=new, tenant=tenant, siblings=others)
    return Sequence(spec, arrival_ns=0)


def _steps_until_done(scheduler: Scheduler, sequence_id: int, most: int = 5000) -> int:
    for count in range(1, most):
        step(scheduler)
        scheduler.check_integrity()
        if scheduler.get(sequence_id) is None:
            return count
    raise AssertionError("it never ended")


def _alone(**fields: int) -> int:
    scheduler = _scheduler()
    scheduler.add(_sequence(1, "bob", **fields))
    return _steps_until_done(scheduler, 1)


def _after_a_flood(tenant: str, steps_before: int, **fields: int) -> int:
    """Steps of one request behind 200 of alice's."""
    scheduler = _scheduler()
    for number in range(200):
        scheduler.add(_sequence(number + 2, "alice"))
    for _ in range(steps_before):
        step(scheduler)
    scheduler.add(_sequence(1, tenant, **fields))
    return _steps_until_done(scheduler, 1)


@pytest.mark.parametrize("steps_before", [0, 1, 7, 40])
@pytest.mark.parametrize("new", [1, 30])
def test_a_flood_of_another_tenant_delays_a_request_by_two_steps_at_most(
    steps_before: int, new: int
) -> None:
    assert _after_a_flood("bob", steps_before, new=new) <= _alone(new=new) + 2


def test_a_flood_of_its_own_delays_it_by_all_of_the_flood() -> None:
    """The control: the same flood, and the same line for all."""
    assert _after_a_flood("alice", 7) > 15 * _alone()


def test_slots_are_shared_alike_while_several_want_them() -> None:
    scheduler = _scheduler()
    for number in range(40):
        scheduler.add(_sequence(number, "alice"))
    for number in range(40, 60):
        scheduler.add(_sequence(number, "bob"))
    for number in range(60, 80):
        scheduler.add(_sequence(number, "carol"))
    step(scheduler)
    assert Counter(each.spec.tenant for each in scheduler._holders.running) == {
        "alice": 3,
        "bob": 3,
        "carol": 2,
    }


def test_one_tenant_alone_has_all_slots_in_order_of_arrival() -> None:
    for tenant in ("", "alice"):
        scheduler = _scheduler()
        for number in range(20):
            scheduler.add(_sequence(number, tenant))
        assert list(step(scheduler)) == list(range(SLOTS))
        assert scheduler.preemptions == 0


def test_room_is_made_only_for_a_tenant_that_runs_nothing() -> None:
    scheduler = _scheduler()
    for number in range(SLOTS):
        scheduler.add(_sequence(number, "alice"))
    step(scheduler)
    for number in range(SLOTS, 2 * SLOTS):
        scheduler.add(_sequence(number, "bob"))
    for _ in range(10):
        step(scheduler)
    assert scheduler.preemptions == 1
    assert Counter(each.spec.tenant for each in scheduler._holders.running) == {
        "alice": 7,
        "bob": 1,
    }


def test_room_is_made_for_all_continuations_of_a_prompt() -> None:
    scheduler = _scheduler()
    for number in range(2, 2 + SLOTS):
        scheduler.add(_sequence(number, "alice", new=500))
    step(scheduler)
    scheduler.add(_sequence(1, "bob", siblings=2))
    step(scheduler)
    step(scheduler)
    assert Counter(each.spec.tenant for each in scheduler._holders.running) == {
        "alice": 5,
        "bob": 3,
    }


def test_room_is_made_in_memory_too() -> None:
    blocks = -(-600 // BLOCK) * SLOTS
    scheduler = _scheduler(blocks=blocks)
    for number in range(2, 2 + SLOTS):
        scheduler.add(_sequence(number, "alice", prompt=250, new=340))
    for _ in range(330):
        step(scheduler)
    assert scheduler.num_blocks_used > blocks - 8
    scheduler.add(_sequence(1, "bob", prompt=250, new=5))
    assert _steps_until_done(scheduler, 1) <= _alone(prompt=250, new=5) + 2


@pytest.mark.parametrize(("siblings", "prefix_caching"), [(3, False), (3, True), (7, False)])
def test_nobody_gives_up_the_only_sequence(siblings: int, prefix_caching: bool) -> None:
    """A prompt that keeps most slots for its continuations is read to its end all the same."""
    scheduler = Scheduler(BlockPool(2000, BLOCK), 512, SLOTS, prefix_caching=prefix_caching)
    for number in range(1, 16):
        tenant = "abcde"[number % 5]
        scheduler.add(_sequence(number, tenant, prompt=3000, new=10, siblings=siblings))
    steps = 0
    while scheduler.has_work:
        step(scheduler)
        steps += 1
        assert steps < 1000
    assert scheduler.preemptions == 0


def test_nothing_is_given_up_in_vain() -> None:
    """All slots are wanted, and alice would keep one."""
    scheduler = _scheduler()
    for number in range(2, 2 + SLOTS):
        scheduler.add(_sequence(number, "alice"))
    step(scheduler)
    scheduler.add(_sequence(1, "bob", siblings=SLOTS - 1))
    _steps_until_done(scheduler, 1)
    assert scheduler.preemptions == 0


def test_nothing_is_given_up_for_who_could_not_start() -> None:
    """What may be sent in a step is used up by a long prompt with a logit of every token."""
    scheduler = Scheduler(BlockPool(2000, BLOCK), 4096, SLOTS)
    much = Outputs(score=ScoreSpec(logits=LogitsSpec("full")))
    for number, tenant, length in ((1, "alice", 5000), (2, "bob", 100)):
        ids = tuple(range(number * 10_000, number * 10_000 + length))
        spec = Submit(number, ids, max_new_tokens=1, outputs=much, tenant=tenant)
        scheduler.add(Sequence(spec, arrival_ns=0))
        if tenant == "alice":
            for other in range(10, 10 + SLOTS - 1):
                scheduler.add(_sequence(other, "alice", new=500))
            step(scheduler)
    _steps_until_done(scheduler, 2)
    assert scheduler.preemptions == 1


def test_a_session_counts_as_running() -> None:
    """Its tenant takes no slot after slot from others."""
    scheduler = _scheduler()
    for number in range(10, 10 + SLOTS):
        scheduler.add(_sequence(number, "alice", new=500))
    step(scheduler)
    for number in range(1, 5):
        ids = tuple(range(1000 * number, 1000 * number + 5000))  # under way for many steps
        spec = Submit(number, ids, max_new_tokens=500, tenant="bob", branch=True)
        scheduler.add(Sequence(spec, arrival_ns=0))
    for _ in range(10):
        step(scheduler)
    assert Counter(each.spec.tenant for each in scheduler.branches.going) == {"bob": 1}
    assert scheduler.preemptions == 1


def test_random_tenants_leak_nothing_and_finish_all() -> None:
    for seed in range(20):
        draw = random.Random(seed)
        scheduler = _scheduler(blocks=60)
        left = {
            number: _sequence(
                number,
                draw.choice(["", "a", "b", "c"]),
                prompt=draw.randint(1, 300),
                new=draw.randint(1, 40),
            )
            for number in range(1, 40)
        }
        added = list(left)
        for _ in range(20_000):
            while added and draw.random() < 0.5:
                scheduler.add(left[added.pop(0)])
            step(scheduler)
            scheduler.check_integrity()
            left = {n: each for n, each in left.items() if n in added or scheduler.get(n)}
            if not left:
                break
        assert not left
        assert scheduler.num_waiting_tokens == 0
