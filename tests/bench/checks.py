"""Whether the tokens are right: against the reference, and of our contenders among themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from bench.contenders import OURS, REFERENCE, Prompts
from bench.plan import Workload

CHECKED_TOKENS = 32
CHECKED_STREAMS = 8


def check_tokens(
    tokens: Mapping[str, Sequence[Prompts]], workloads: Sequence[Workload], *, exact: bool
) -> list[dict[str, Any]]:
    """Compare greedy tokens.

    Args:
        tokens: By contender, for each workload what came back.
        workloads: In the same order.
        exact: Whether ours must equal the reference's; in 16 bits they may part.

    Returns:
        One entry for each comparison. ``required`` ones must have a ``share`` of 1.
    """
    ours = [name for name in tokens if name in OURS]
    decodes = [n for n, workload in enumerate(workloads) if workload.kind == "decode"]
    checks = []
    if REFERENCE in tokens:
        nearest = min(decodes, key=lambda n: abs(len(workloads[n].prompts) - CHECKED_STREAMS))
        right = _heads(tokens[REFERENCE][nearest])
        for name in ours:
            found = _heads(tokens[name][nearest])
            checks.append(_compare(name, found, REFERENCE, right, required=exact))
    for name in ours[1:]:  # however they were asked and whatever else came with a token
        found, right = list(chain(*tokens[name])), list(chain(*tokens[ours[0]]))
        checks.append(_compare(name, found, ours[0], right, required=True))
    for name in ours:  # in a crowd as alone
        crowd = tokens[name][decodes[-1]]
        for n in decodes[:-1]:
            found = tokens[name][n]
            label = f"itself with {len(crowd)} streams instead of {len(found)}"
            checks.append(_compare(name, found, label, crowd[: len(found)], required=True))
    return checks


def is_right(checks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every comparison that must hold does."""
    return all(check["share"] == 1.0 for check in checks if check["required"])


def _heads(found: Prompts) -> Prompts:
    return [tokens[:CHECKED_TOKENS] for tokens in found[:CHECKED_STREAMS]]


def _compare(
    name: str, found: Prompts, against: str, right: Prompts, *, required: bool
) -> dict[str, Any]:
    """How many tokens are equal, position by position."""
    pairs = [
        (mine, theirs)
        for ours, others in zip(found, right, strict=True)
        for mine, theirs in zip(ours, others, strict=True)
    ]
    equal = sum(mine == theirs for mine, theirs in pairs)
    return {
        "of": name,
        "against": against,
        "prompts": len(found),
        "tokens": len(pairs),
        "equal": equal,
        "share": equal / len(pairs),
        "required": required,
    }
