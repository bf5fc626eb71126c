"""Builds the one message a step sends, and the raw frames behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from headstream.model import pooling
from headstream.model.batch import RowResult, ScoreResult
from headstream.model.heads import TORCH_DTYPES
from headstream.model.outputs import PoolSpec, WireDtype
from headstream.server.engine.frame import Frame
from headstream.server.engine.messages import LogitRow, Scores, Token

_WIRE_NAMES: dict[torch.dtype, WireDtype] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


class Frames:
    """The raw frames of one message, in order."""

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []

    def add(self, tensor: Tensor, dtype: WireDtype | None = None) -> Frame:
        """Append a tensor, cast to ``dtype`` if given; its memory is shared, not copied."""
        if dtype is not None:
            tensor = tensor.to(TORCH_DTYPES[dtype])
        tensor = tensor.contiguous()
        self.buffers.append(tensor.flatten().view(torch.uint8).numpy().data)
        return Frame(len(self.buffers) - 1, _WIRE_NAMES[tensor.dtype], tuple(tensor.shape))

    def pooled(self, spec: PoolSpec, first: int, pool_rows: list[Tensor]) -> Frame:
        """The vectors asked for, float32 [spans, d], of rows from the position ``first`` on."""
        rows = pool_rows[0] if len(pool_rows) == 1 else torch.cat(pool_rows)  # [prompt - first, d]
        return self.add(pooling.pool(rows, spec, first))

    def token(self, index: int, row: RowResult) -> Token:
        """A generated token with the logits asked for."""
        values = None if row.values is None else self.add(row.values)
        return Token(index, row.token_id, row.logprob, values, row.value_ids)

    def logit_row(self, position: int, row: RowResult) -> LogitRow:
        """The logits behind a token of a branch."""
        if row.values is None:
            raise AssertionError("a branch always asks for logits")
        return LogitRow(position, self.add(row.values), row.value_ids)

    def scores(self, start: int, result: ScoreResult) -> Scores:
        """The scores of the positions from ``start`` on, with the logits asked for."""
        # Ranks are below 2^24: a float32 holds them exactly.
        values = self.add(torch.stack([each.float() for each in result.scores]))  # [3, n]
        logits = None if result.values is None else self.add(result.values)
        ids = b"" if result.value_ids is None else result.value_ids.int().numpy().tobytes()
        return Scores(start, values, logits, ids)
