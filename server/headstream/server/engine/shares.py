"""What each tenant has of the slots, and who gives some up for one that has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import chain

from headstream.server.engine.sequence import Sequence


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

    They are if its tenant runs nothing, and if that is enough: nothing is given up in vain.

    Args:
        sequence: It waits.
        running: In order of arrival. Each tenant keeps its oldest.
        going: Branches of sessions. They keep their slots.
        slots: Of a step.
    """
    if any(each.spec.tenant == sequence.spec.tenant for each in chain(running, going)):
        return False
    kept: dict[str, int] = {}
    for each in running:
        kept.setdefault(each.spec.tenant, each.num_slots)
    return sum(kept.values()) + len(going) + sequence.num_slots <= slots


def to_give_up(running: Iterable[Sequence]) -> Sequence | None:
    """The youngest sequence of the tenant that has most slots, among those that run several.

    Args:
        running: In order of arrival.

    Returns:
        None where no tenant runs two sequences: nobody loses the only one, which with siblings to
        come may have most of the slots.
    """
    listed = list(running)
    numbers = Counter(each.spec.tenant for each in listed)
    held = slots_of_tenants(each for each in listed if numbers[each.spec.tenant] > 1)
    if not held:
        return None
    tenant = held.most_common(1)[0][0]
    return next(each for each in reversed(listed) if each.spec.tenant == tenant)
