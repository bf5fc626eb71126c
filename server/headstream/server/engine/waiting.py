"""Sequences that wait for their first step: a line for each priority, and who was passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from headstream.server.engine.line import Line
from headstream.server.engine.priority import Priority
from headstream.server.engine.sequence import Sequence

PATIENCE = 32
"""Steps that may pass over a priority before the first of it goes ahead of all."""


class Waiting:
    """The more urgent line goes first; within a line, tenants take turns.

    No line starves. A step passes over a line if it starts something more urgent, or reads prompts
    of such, and nothing of the line. Where :data:`PATIENCE` steps do so, with none between that
    serves the line, the first of it becomes ``HIGH`` for good: it starts with the next free slot,
    and gives way to nobody more urgent. So a line that is never served otherwise gets one sequence
    for 32 steps of the others. One that was lifted and has not started yet is the only one.
    """

    def __init__(self) -> None:
        self._lines = {priority: Line() for priority in sorted(Priority, reverse=True)}
        self._passed: Counter[Priority] = Counter()  # steps in a row

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Sequence]:
        for line in self._lines.values():
            yield from line

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._lines[sequence.priority]

    @property
    def num_tokens(self) -> int:
        """Of all of them."""
        return sum(line.num_tokens for line in self._lines.values())

    def count(self, priority: Priority) -> int:
        """How many wait in one line."""
        return len(self._lines[priority])

    def add(self, sequence: Sequence, *, first: bool = False) -> None:
        """Put it at the end of its line, or before all others of its tenant there."""
        self._lines[sequence.priority].add(sequence, first=first)

    def remove(self, sequence: Sequence) -> None:
        """It waits no more."""
        self._lines[sequence.priority].remove(sequence)

    def lines(self) -> list[tuple[Priority, Line]]:
        """The most urgent first."""
        return list(self._lines.items())

    def note_step(
        self, prompts: Iterable[Sequence], served: Iterable[Sequence], paused: set[Sequence]
    ) -> None:
        """Count who was passed over by a step, and lift who was so too often.

        Args:
            prompts: Under way, in the order they are read.
            served: Sequences that the step started, or whose prompts it went on with.
            paused: Those who do not want to be served.
        """
        got = {sequence.priority for sequence in served}
        under_way = [sequence for sequence in prompts if sequence not in paused]
        for priority in Priority:
            first = self._first(priority, under_way, paused)
            if first is None or priority is Priority.HIGH or priority in got:
                self._passed[priority] = 0
            elif any(other > priority for other in got) and not self._has_lifted(priority):
                self._passed[priority] += 1
                if self._passed[priority] >= PATIENCE:
                    self._passed[priority] = 0
                    self._lift(first)

    def _first(
        self, priority: Priority, under_way: list[Sequence], paused: set[Sequence]
    ) -> Sequence | None:
        """Whose turn it is: a prompt under way comes before those that have not begun."""
        places = (under_way, self._lines[priority])
        candidates = (each for place in places for each in place if each.priority is priority)
        return next((each for each in candidates if each not in paused), None)

    def _has_lifted(self, priority: Priority) -> bool:
        """Whether one of this priority was lifted and has not started yet."""
        return any(each.spec.priority is priority for each in self._lines[Priority.HIGH])

    def _lift(self, sequence: Sequence) -> None:
        waits = sequence in self
        if waits:
            self.remove(sequence)
        sequence.priority = Priority.HIGH
        if waits:
            self.add(sequence, first=True)

    def check_integrity(self) -> None:
        """Prove that each line is well; see :meth:`Line.check_integrity`.

        Raises:
            AssertionError: It is not so, or somebody stands in the wrong line.
        """
        for priority, line in self._lines.items():
            line.check_integrity()
            if any(sequence.priority is not priority for sequence in line):
                raise AssertionError("a sequence waits in the line of another priority")
