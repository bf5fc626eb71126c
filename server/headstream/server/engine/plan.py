"""The step under construction: whose rows it computes, and which blocks are copied before."""

from __future__ import annotations

from headstream.model.batch import PREFILL_GRID
from headstream.server.engine.sequence import Sequence

_QUARTER = 4  # share of the budget while most sequences wait for a next token, not for a first

Schedule = dict[Sequence, int]
"""Rows of each sequence: it computes the positions [num_computed, num_computed + rows)."""


class Plan:
    """Sequences, and what is left of the budget for others."""

    def __init__(self, budget: int) -> None:
        """``budget``: most rows of the step."""
        self.rows: Schedule = {}
        self.budget = budget  # rows left
        self.block_copies: dict[Sequence, tuple[int, int]] = {}
        # Of these, rows of which much is sent: each may take a MiB. Single ones are not counted,
        # so that sequences that generate do not keep others from a tile of the grid.
        self._much_budget = PREFILL_GRID

    def budget_for(self, sequence: Sequence) -> int:
        """Rows left for a sequence. One that cannot be cut has a step of its own, if it is long."""
        if sequence.is_whole and not self.rows:
            return max(self.budget, sequence.num_tokens)
        if sequence.sends_much:
            return min(self.budget, self._much_budget)
        return self.budget

    def add(self, sequence: Sequence, rows: int) -> None:
        """Compute so many rows of a sequence."""
        self.rows[sequence] = rows
        self._spend(sequence, rows)

    def drop(self, sequence: Sequence) -> None:
        """Compute nothing of it after all; what was to be copied for it is not needed."""
        self._spend(sequence, -self.rows.pop(sequence, 0))
        self.block_copies.pop(sequence, None)

    def _spend(self, sequence: Sequence, rows: int) -> None:
        self.budget -= rows
        if sequence.sends_much and abs(rows) > 1:
            self._much_budget -= rows


def step_budget(most: int, max_num_seqs: int, *, ready: int, prompts: int) -> int:
    """Rows of a step, at most ``most``.

    A long step reads more prompts at less cost, and lets everybody who waits for a next token
    (``ready``) wait longer. So the majority decides.
    """
    if prompts > ready:
        return most
    return max(most // _QUARTER, PREFILL_GRID + max_num_seqs)
