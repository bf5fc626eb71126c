"""Whether the answers are right: against the reference, and of our contenders among themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from bench.contenders.registry import OURS, REFERENCE, Prompts
from bench.plan import Workload

CHECKED_TOKENS = 32
CHECKED_STREAMS = 8


Answers = Mapping[str, Sequence[Any]]
"""By contender, for each workload what came back; None: it cannot answer, or does not tell."""


def check(answers: Answers, workloads: Sequence[Workload], *, exact: bool) -> list[dict[str, Any]]:
    """Compare greedy tokens and log-probabilities.

    Args:
        answers: Of all contenders.
        workloads: In the same order.
        exact: Whether our tokens must equal the reference's; in 16 bits they may part.

    Returns:
        One entry for each comparison of tokens, whose ``share`` must be 1 where it is
        ``required``, and for each of log-probabilities, which are reported only.
    """
    return [
        *_with_reference(answers, workloads, exact=exact),
        *_among_ours(answers, workloads),
        *_scores(answers, workloads),
    ]


def _with_reference(
    answers: Answers, workloads: Sequence[Workload], *, exact: bool
) -> Iterator[dict[str, Any]]:
    """Everyone's tokens; a peer that departs is reported: its numbers are its own business."""
    decodes = _decodes(workloads)
    if REFERENCE not in answers or not decodes:
        return
    nearest = min(decodes, key=lambda n: abs(workloads[n].streams - CHECKED_STREAMS))
    right = _heads(answers[REFERENCE][nearest])
    for name, answer in answers.items():
        if name != REFERENCE and answer[nearest] is not None:
            required = exact and name in OURS
            yield _compare(name, _heads(answer[nearest]), REFERENCE, right, required=required)


def _among_ours(answers: Answers, workloads: Sequence[Workload]) -> Iterator[dict[str, Any]]:
    """Ours give the same tokens however they are asked, and in a crowd as alone."""
    decodes = _decodes(workloads)
    prefills = [n for n, workload in enumerate(workloads) if workload.kind == "prefill"]
    ours = [name for name in answers if name in OURS]
    for name in ours[1:]:
        found, right = (
            [tokens for n in [*decodes, *prefills] for tokens in answers[who][n]]
            for who in (name, ours[0])
        )
        yield _compare(name, found, ours[0], right, required=True)
    for name in ours:
        crowd = answers[name][decodes[-1]]
        for n in decodes[:-1]:
            found = answers[name][n]
            label = f"itself with {len(crowd)} streams instead of {len(found)}"
            yield _compare(name, found, label, crowd[: len(found)], required=True)


def _scores(answers: Answers, workloads: Sequence[Workload]) -> Iterator[dict[str, Any]]:
    """How far log-probabilities lie apart, at most."""
    for n, workload in enumerate(workloads):
        if workload.kind != "score" or REFERENCE not in answers:
            continue
        right = list(chain(*answers[REFERENCE][n]))
        for name, answer in answers.items():
            if name != REFERENCE and answer[n] is not None:
                found = list(chain(*answer[n]))
                apart = max(abs(a - b) for a, b in zip(found, right, strict=True))
                yield {"of": name, "against": REFERENCE, "required": False, "apart": apart}


def is_right(checks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every comparison that must hold does."""
    return all(check["share"] == 1.0 for check in checks if check["required"])


def _decodes(workloads: Sequence[Workload]) -> list[int]:
    return [n for n, workload in enumerate(workloads) if workload.kind == "decode"]


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
