"""Where the ranks of one engine find each other: a file in the directory of the engine's socket."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import torch.distributed as dist

_FOREVER = dt.timedelta(days=365)  # loading takes its time; whether we live is the front's business


class Meeting:
    """Rank 0 names the checkpoint; each loads its part and says so; rank 0 tells the memory to use.

    The directory is for the server's user alone.
    """

    def __init__(self, address: str, num_ranks: int) -> None:
        """``address``: of the engine's socket."""
        path = Path(address.removeprefix("ipc://")).with_name("ranks")
        self.store = dist.FileStore(str(path), num_ranks)
        self.store.set_timeout(_FOREVER)
        self._num_ranks = num_ranks

    def tell_checkpoint(self, directory: Path) -> None:
        """Let the others begin."""
        self.store.set("checkpoint", str(directory))

    def hear_checkpoint(self) -> Path:
        """Wait for it."""
        return Path(self.store.get("checkpoint").decode())

    def tell_loaded(self, rank: int) -> None:
        """The rank's part is in memory."""
        self.store.set(f"loaded/{rank}", "")

    def tell_memory(self, num_blocks: int, block_size: int) -> None:
        """When the others are loaded: the key/value memory that each of them has."""
        self.store.wait([f"loaded/{rank}" for rank in range(1, self._num_ranks)], _FOREVER)
        self.store.set("memory", f"{num_blocks} {block_size}")

    def hear_memory(self) -> tuple[int, int]:
        """Wait for it: blocks, and tokens of a block."""
        num_blocks, block_size = self.store.get("memory").decode().split()
        return int(num_blocks), int(block_size)
