"""Who has how many slots, and who gives some up: to a tenant with none, to the more urgent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import chain

from headstream.server.engine.priority import Priority
from headstream.server.engine.sequence import Sequence

_KEPT_STEPS = 8  # a sequence keeps its slot so long from the more urgent: it gets somewhere
_MOST_DISPLACED = 4


def slots_of_tenants(sequences: Iterable[Sequence]) -> Counter[str]:
    """How many slots the sequences of each tenant have."""
    held: Counter[str] = Counter()
    for sequence in sequences:
        held[sequence.spec.tenant] += sequence.num_slots
    return held


def may_ask(
    sequence: Sequence, running: Iterable[Sequence], going: Collection[Sequence], slots: int
) -> bool:
    """Whether others are to make room for a waiting sequence.

    They are if its tenant runs nothing, and if that is enough: nothing is given up in vain, and
    nothing by who is more urgent.

    Args:
        sequence: It waits.
        running: In order of arrival. Each tenant keeps its oldest.
        going: Branches of sessions. They keep their slots.
        slots: Of a step.
    """
    if any(each.spec.tenant == sequence.spec.tenant for each in chain(running, going)):
        return False
    kept: dict[str, int] = {}
    urgent = 0
    for each in running:
        if each.priority > sequence.priority:
            urgent += each.num_slots
        else:
            kept.setdefault(each.spec.tenant, each.num_slots)
    return urgent + sum(kept.values()) + len(going) + sequence.num_slots <= slots


def to_give_up(running: Iterable[Sequence], asking: Sequence) -> Sequence | None:
    """The youngest sequence of the tenant that has most slots, among those that run several.

    Args:
        running: In order of arrival.
        asking: For whom. Who is more urgent is left alone.

    Returns:
        None where no tenant runs two sequences: nobody loses the only one, which with siblings to
        come may have most of the slots.
    """
    listed = [each for each in running if each.priority <= asking.priority]
    numbers = Counter(each.spec.tenant for each in listed)
    held = slots_of_tenants(each for each in listed if numbers[each.spec.tenant] > 1)
    if not held:
        return None
    tenant = held.most_common(1)[0][0]
    return next(each for each in reversed(listed) if each.spec.tenant == tenant)


def to_displace(running: Iterable[Sequence], asking: Sequence, step: int) -> list[Sequence]:
    """Who may have to make room for a more urgent sequence: the least urgent, the youngest first.

    Args:
        running: In order of arrival.
        asking: It waits. If it is urgent only because it was passed over it displaces nobody.
        step: The number of this one.
    """
    listed = [
        each
        for each in running
        if each.priority < asking.spec.priority and step - each.start_step >= _KEPT_STEPS
    ]
    listed.reverse()
    return sorted(listed, key=lambda each: each.priority)


def note_displaced(sequence: Sequence) -> None:
    """It lost its slot or its memory to a more urgent one; from the fourth time on, to nobody."""
    sequence.times_displaced += 1
    if sequence.times_displaced == _MOST_DISPLACED:
        sequence.priority = Priority.HIGH
