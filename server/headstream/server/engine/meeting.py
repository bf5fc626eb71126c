"""Where the ranks of one engine find each other: a file in the directory of the engine's socket."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec
import torch.distributed as dist

_FOREVER = datetime.timedelta(
    days=365
)  # loading takes as long as it takes; the front looks after us


class Plan(msgspec.Struct, frozen=True):
    """What rank 0 has found out, so that the others need not look."""

    directory: str  # of the checkpoint
    block_size: int
    d_vocab: int


class Meeting:
    """Rank 0 tells the plan; each rank loads its part and says so; then rank 0 tells what fits."""

    def __init__(self, address: str, num_ranks: int) -> None:
        """``address``: of the engine's socket."""
        path = Path(address.removeprefix("ipc://")).with_name("ranks")
        self.store = dist.FileStore(str(path), num_ranks)
        self.store.set_timeout(_FOREVER)
        self._num_ranks = num_ranks

    def tell_plan(self, plan: Plan) -> None:
        """Let the others begin."""
        self.store.set("plan", msgspec.json.encode(plan).decode())

    def hear_plan(self) -> Plan:
        """Wait for it."""
        return msgspec.json.decode(self.store.get("plan"), type=Plan)

    def is_loaded(self, rank: int) -> None:
        """Its part is in memory."""
        self.store.set(f"loaded/{rank}", "")

    def tell_blocks(self, num_blocks: int) -> None:
        """When all others are loaded: the blocks of key/value memory that each of them has."""
        self.store.wait([f"loaded/{rank}" for rank in range(1, self._num_ranks)], _FOREVER)
        self.store.set("blocks", str(num_blocks))

    def hear_blocks(self) -> int:
        """Wait for them."""
        return int(self.store.get("blocks"))
