"""The ranks of one model, and what they tell one another."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from typing import NoReturn

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from headstream.model.parallel.split import Split

_MOST = 12  # tensors of one message


def leave() -> NoReturn:
    """End this process now: an orderly exit waits for messages to ranks that may not read them."""
    os._exit(1)


class Group:
    """Every rank of a model calls the same methods in the same order.

    Whoever waits longer than the timeout, or for a rank that has ended, gets a RuntimeError. After
    one the ranks are out of step, and their processes must end.
    """

    def __init__(self, split: Split, store: Store, timeout_s: float, device: torch.device) -> None:
        """Meet the others over ``store``; gloo carries what lies on the CPU, NCCL the rest.

        Raises:
            RuntimeError: not all of them came in time.
        """
        self.split = split
        dist.init_process_group(
            "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=store,
            rank=split.rank,
            world_size=split.size,
            timeout=dt.timedelta(seconds=timeout_s),
        )

    def gather(self, x: Tensor) -> list[Tensor]:
        """``x`` of every rank, in their order; of one shape."""
        if x.numel() == 0:
            return [x] * self.split.size
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in self._ranks]
        dist.all_gather(parts, x.contiguous())
        return parts

    def gather_columns(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        """The columns of every rank's x [n, widths[rank]] side by side: [n, sum of widths]."""
        padded = F.pad(x, (0, max(widths) - x.shape[1]))
        parts = self.gather(padded)
        return torch.cat(
            [part[:, :width] for part, width in zip(parts, widths, strict=True)], dim=1
        )

    def add(self, x: Tensor) -> Tensor:
        """The sum of every rank's ``x``, the same bits on all of them.

        Added element by element in the order of the ranks and rounded once. An all-reduce has an
        order that depends on the place in the buffer, so a row's bits would depend on the others.
        """
        first, *others = self.gather(x)
        total = first.float() if x.dtype == torch.bfloat16 else first
        for other in others:
            total = total + other
        return total.to(x.dtype)

    def share(self, x: Tensor) -> None:
        """Fill every rank's ``x`` with that of rank 0."""
        dist.broadcast(x, 0)

    def send(self, kind: int, *parts: Tensor) -> None:
        """Tell the others something: a number and some int64 [n] on the CPU."""
        lengths = [part.numel() for part in parts]
        self.share(torch.tensor([kind, len(parts), *lengths, *[0] * (_MOST - len(parts))]))
        if sum(lengths):
            self.share(torch.cat(parts))

    def receive(self) -> tuple[int, list[Tensor]]:
        """What rank 0 sends."""
        head = torch.empty(2 + _MOST, dtype=torch.int64)
        self.share(head)
        kind, count, *lengths = head.tolist()
        body = torch.empty(sum(lengths), dtype=torch.int64)
        if len(body):
            self.share(body)
        return kind, list(body.split(lengths[:count]))

    @property
    def _ranks(self) -> range:
        return range(self.split.size)
