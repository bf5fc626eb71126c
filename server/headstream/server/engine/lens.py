"""The logit lens: rows of the stream that wait to be unembedded, a few in each step.

A row costs as much as a generated token, and each has one in every layer. So the rows of a prompt
are kept as it runs, and read afterwards, beside the steps of the others.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from headstream.model.runner import Runner
from headstream.model.sites import LensSpec
from headstream.server.engine.look import LensRows
from headstream.server.engine.report import Frames


class Lens:
    """Of one sequence."""

    def __init__(self, spec: LensSpec) -> None:
        self.spec = spec
        self._waiting: deque[tuple[int, int, Tensor]] = deque()  # layer, first position, [n, d]

    def __bool__(self) -> bool:
        """Whether any rows wait."""
        return bool(self._waiting)

    def put(self, layer: int, start: int, rows: Tensor) -> None:
        """Rows [n, d] of the positions from ``start`` on."""
        # A copy: rows that wait must not keep those of everybody else in their step.
        self._waiting.append((layer, start, rows.clone()))

    def read(self, runner: Runner, most: int, frames: Frames) -> tuple[LensRows, ...]:
        """The logits of the first that wait, at most ``most`` rows."""
        parts: list[tuple[int, int, Tensor]] = []
        while self._waiting and most:
            layer, start, rows = self._waiting.popleft()
            if len(rows) > most:
                self._waiting.appendleft((layer, start + most, rows[most:]))
                rows = rows[:most]
            parts.append((layer, start, rows))
            most -= len(rows)
        values, ids = runner.read(torch.cat([rows for *_, rows in parts]), self.spec.logits)
        read: list[LensRows] = []
        begin = 0
        for layer, start, rows in parts:
            own = slice(begin, begin + len(rows))
            token_ids = b"" if ids is None else ids[own].int().numpy().tobytes()
            read.append(LensRows(layer, start, frames.add(values[own]), token_ids))
            begin = own.stop
        return tuple(read)
