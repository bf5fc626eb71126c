"""What one sequence changes inside the model, and which of it falls into a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headstream.model.batch import Place
from headstream.model.config import ModelConfig
from headstream.model.edits import RowEdit
from headstream.model.sites import Edit
from headstream.server.engine.sites import check_edit


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """An edit with its tensors."""

    edit: Edit
    heads: Tensor | None  # int64 [h]
    values: Tensor | None  # float32 [width], or [layers, positions, (h,) width] to set


class SequenceEdits:
    """The edits of a sequence, in order."""

    def __init__(self, edits: tuple[Edit, ...], config: ModelConfig) -> None:
        """Raises ValueError: one does not fit the model."""
        for edit in edits:
            check_edit(edit, config)
        self._edits = [_prepare(edit) for edit in edits]

    def rows(self, start: int, end: int, shift: int) -> Iterator[tuple[Place, RowEdit]]:
        """What is changed at positions [start, end), which stand ``shift`` rows further in X."""
        for ready in self._edits:
            edit, values = ready.edit, ready.values
            begin = max(start, edit.start)
            stop = end if edit.end is None else min(end, edit.end)
            if begin >= stop:
                continue
            rows = torch.arange(begin + shift, stop + shift)
            for index, layer in enumerate(edit.layers):
                if ready.values is not None and edit.kind == "set":
                    values = ready.values[index, begin - edit.start : stop - edit.start]
                change = RowEdit(rows, edit.kind, edit.factor, ready.heads, values)
                yield (edit.site, layer), change


def _prepare(edit: Edit) -> _Ready:
    heads = torch.tensor(edit.heads) if edit.heads else None
    if not edit.values:
        return _Ready(edit, heads, None)
    values = torch.frombuffer(bytearray(edit.values), dtype=torch.float32)
    if edit.kind == "set":
        assert edit.end is not None
        shape = (
            len(edit.layers),
            edit.end - edit.start,
            *([len(edit.heads)] if edit.heads else []),
        )
        values = values.view(*shape, -1)  # [layers, positions, (h,) width]
    return _Ready(edit, heads, values)
