"""Reads the rows of the logit lens of all sequences, a few in each step."""

from __future__ import annotations

import time

from headstream.model.heads import SLICE
from headstream.model.runner import Runner
from headstream.server.engine.look import Seen
from headstream.server.engine.messages import Delta
from headstream.server.engine.report import Frames
from headstream.server.engine.scheduler import Scheduler
from headstream.server.engine.sequence import Sequence

_BESIDE = 32  # rows in a step that others wait for


class LensReader:
    """The sequences whose rows wait, in turns."""

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._line: dict[Sequence, None] = {}  # an ordered set

    def add(self, sequence: Sequence) -> None:
        """More of its rows wait."""
        self._line[sequence] = None

    def drop(self, sequence: Sequence) -> None:
        """Nobody wants its rows any more."""
        self._line.pop(sequence, None)

    def read(self, frames: Frames, *, beside: bool) -> list[Delta]:
        """Read rows of the first in line; ``beside``: others compute in this step."""
        sequence = self._next()
        if sequence is None:
            return []
        del self._line[sequence]
        assert sequence.lens is not None
        try:
            rows = sequence.lens.read(self._runner, _BESIDE if beside else SLICE, frames)
        except Exception as error:  # ends its own sequence, not the step
            self._scheduler.remove(sequence)
            return [Delta(sequence.spec.id, finish="error", error=repr(error))]
        if sequence.lens:
            self._line[sequence] = None
        done = sequence.is_done
        if done:
            self._scheduler.remove(sequence)
        return [
            Delta(
                sequence.spec.id,
                finish=(sequence.finish or "length") if done else None,
                queue_ns=sequence.first_step_ns - sequence.arrival_ns,
                compute_ns=time.monotonic_ns() - sequence.first_step_ns,
                seen=Seen(lens=rows),
                milestone=sequence.milestone if done else None,
            )
        ]

    def _next(self) -> Sequence | None:
        """The first whose reader keeps up; those that a failed step has ended are forgotten."""
        here = self._scheduler.get
        self._line = {each: None for each in self._line if here(each.spec.id) is each}
        return next((each for each in self._line if not self._scheduler.is_paused(each)), None)
