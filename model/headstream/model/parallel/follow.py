"""Every other rank: does what rank 0 says, until it says stop."""

from __future__ import annotations

import torch

from headstream.model.parallel.commands import Command, batch_from_parts
from headstream.model.parallel.group import Group
from headstream.model.runner import Runner


@torch.inference_mode()
def follow(runner: Runner, group: Group) -> None:
    """Compute this rank's part of whatever rank 0 computes.

    Raises:
        RuntimeError: rank 0, or another, has ended or is silent for longer than the timeout.
    """
    model, device = runner.model, runner.cache.device
    while True:
        kind, parts = group.receive()
        match kind:
            case Command.RUN:
                runner.run(batch_from_parts(parts))
            case Command.UNEMBED:
                assert model.unembed is not None
                (rows, count, scores), keep, targets = (
                    parts[0].tolist(),
                    parts[1].tolist(),
                    parts[2],
                )
                x = torch.empty(rows, model.config.d_model, dtype=runner.cache.dtype, device=device)
                group.share(x)
                wanted = targets.to(device) if scores else None
                model.unembed.look_through(x, keep=keep, count=count, targets=wanted)
            case Command.LOOK_UP:
                runner.lookup(parts[0].tolist())
            case Command.BEAT:
                group.gather(torch.zeros(1))
            case _:
                return
