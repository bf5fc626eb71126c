"""What each tenant has of the slots, and who gives some up for one that has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from headstream.server.engine.sequence import Sequence


def slots_of_tenants(sequences: Iterable[Sequence]) -> Counter[str]:
    """How many slots the sequences of each tenant have."""
    held: Counter[str] = Counter()
    for sequence in sequences:
        held[sequence.spec.tenant] += sequence.num_slots
    return held


def to_give_up(running: Iterable[Sequence]) -> Sequence | None:
    """The youngest sequence of the tenant that has most slots; None: no tenant has two.

    Args:
        running: In order of arrival.
    """
    listed = list(running)
    held = slots_of_tenants(listed)
    tenant, slots = held.most_common(1)[0] if held else ("", 0)
    if slots < 2:
        return None
    return next(each for each in reversed(listed) if each.spec.tenant == tenant)
