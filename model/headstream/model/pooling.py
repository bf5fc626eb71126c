"""From the rows of a text to one vector per span."""

from __future__ import annotations

import torch
from torch import Tensor

from headstream.model.outputs import PoolSpec


def pool(rows: Tensor, spec: PoolSpec, first: int = 0) -> Tensor:
    """Pool ``rows`` [n, d], one for each position from ``first`` on, into float32 [spans, d]."""
    return torch.stack([_pool_span(rows, spec.kind, span, first) for span in spec.spans])


def _pool_span(rows: Tensor, kind: str, span: tuple[int, ...], first: int) -> Tensor:
    begin, end = span[0] - first, span[-1] + 1 - first
    if kind == "cls":
        return rows[begin].float()
    if kind == "last":
        return rows[end - 1].float()
    whole = end - begin == len(span)  # no position is left out between them
    members = (rows[begin:end] if whole else rows[torch.tensor(span) - first]).float()
    return members.amax(dim=0) if kind == "max" else members.mean(dim=0)  # of [members, d]
