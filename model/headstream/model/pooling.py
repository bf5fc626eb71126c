"""From the rows of a text to one vector per span."""

from __future__ import annotations

import torch
from torch import Tensor

from headstream.model.outputs import PoolSpec


def pool(rows: Tensor, spec: PoolSpec) -> Tensor:
    """Pool ``rows`` [n, d], one per position of the prompt, into float32 [spans, d]."""
    return torch.stack([_pool_span(rows, spec.kind, span) for span in spec.spans])


def _pool_span(rows: Tensor, kind: str, span: tuple[int, ...]) -> Tensor:
    if kind == "cls":
        return rows[span[0]].float()
    if kind == "last":
        return rows[span[-1]].float()
    first, last = span[0], span[-1]
    whole = last - first + 1 == len(span)  # no position is left out between them
    members = (
        rows[first : last + 1] if whole else rows[torch.tensor(span)]
    ).float()  # [members, d]
    return members.amax(dim=0) if kind == "max" else members.mean(dim=0)
