"""Rank 0: a runner like any other, whose work the other ranks do along with it."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor

from headstream.model.batch import PackedBatch, StepOutput
from headstream.model.families.base import Model
from headstream.model.kernels import Kernels
from headstream.model.kernels.unembed import LogitRows, Unembed
from headstream.model.kv_cache import KVCache
from headstream.model.outputs import LogitsSpec
from headstream.model.parallel.commands import Command, batch_to_parts
from headstream.model.parallel.group import Group, leave
from headstream.model.runner import Runner

_log = logging.getLogger(__name__)


class LeadRunner(Runner):
    """Tells the others first, then computes its own part.

    A fault while ranks compute together leaves them out of step: it ends this process, and whoever
    watches the ranks ends the others.
    """

    def __init__(self, model: Model, cache: KVCache, kernels: Kernels, group: Group) -> None:
        super().__init__(model, cache, kernels, graphs=False)
        self._group = group

    @property
    def backend(self) -> str:
        """See ``Runner``; sums over ranks round otherwise than those of one."""
        return f"{super().backend}-ranks{self._group.split.size}"

    def run(self, batch: PackedBatch) -> StepOutput:
        """See ``Runner``.

        Raises:
            ValueError: somebody looks at a site, or changes one: each rank has a part of it.
        """
        if batch.sites or batch.edits:
            raise ValueError("sites are neither shown nor changed where ranks share the model")
        with self._together():
            self._group.send(Command.RUN, *batch_to_parts(batch))
            return super().run(batch)

    def read(self, resid: Tensor, spec: LogitsSpec) -> tuple[Tensor, Tensor | None]:
        """See ``Runner``."""
        with self._together():
            return super().read(resid, spec)

    def lookup(self, token_ids: Sequence[int]) -> Tensor:
        """See ``Runner``."""
        with self._together():
            self._group.send(Command.LOOK_UP, torch.tensor(token_ids))
            return super().lookup(token_ids)

    def beat(self) -> None:
        """See that all are there."""
        with self._together():
            self._group.send(Command.BEAT)
            self._group.gather(torch.zeros(1))

    def close(self) -> None:
        """Let the others end."""
        with suppress(RuntimeError):  # they have ended
            self._group.send(Command.STOP)

    @contextmanager
    def _together(self) -> Generator[None]:
        try:
            yield
        except Exception:
            _log.exception("rank 0 ends, since the ranks are out of step")
            leave()


def lead_kernels(kernels: Kernels, group: Group) -> Kernels:
    """``split_kernels`` of the rank that has rows to unembed: it hands them to the others."""

    def unembed(weight: Tensor, softcap: float | None) -> Unembed:
        own = kernels.unembed(weight, softcap)

        def together(
            x: Tensor, count: int, keep: Sequence[int], targets: Tensor | None = None
        ) -> LogitRows:
            sizes = torch.tensor([len(x), count, targets is not None])
            wanted = torch.empty(0, dtype=torch.int64) if targets is None else targets.cpu()
            group.send(Command.UNEMBED, sizes, torch.tensor(keep, dtype=torch.int64), wanted)
            x = x.contiguous()
            group.share(x)
            return own(x, count, keep, targets)

        return together

    return replace(kernels, unembed=unembed)
