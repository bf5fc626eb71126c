"""Counts what sequences have told against their credit."""

from __future__ import annotations

import msgspec

from headstream.server.engine.credit import num_bytes
from headstream.server.engine.messages import Delta
from headstream.server.engine.report import Frames
from headstream.server.engine.scheduler import Scheduler


def charged(delta: Delta, frames: Frames, scheduler: Scheduler) -> Delta:
    """Some news of a sequence, counted if they hold tensors and others are to follow."""
    sequence = scheduler.get(delta.id)
    size = num_bytes(delta, frames.buffers)
    if sequence is None or not size:
        return delta
    scheduler.charge(sequence, size)
    return msgspec.structs.replace(delta, told_bytes=sequence.told_bytes)
