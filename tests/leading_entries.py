"""What is known of a row of logits before the sampler looks at it, by sorting it."""

from __future__ import annotations

from torch import Tensor

from headstream.model import sampler
from headstream.model.batch import LEADING


def leading(row: Tensor, count: int = LEADING) -> sampler.Leading:
    """The ``count`` largest entries of ``row`` float32 [V], or all."""
    values, ids = row.sort(descending=True, stable=True)
    return sampler.Leading(values[:count].numpy(), ids[:count].numpy(), float(row.logsumexp(dim=0)))
