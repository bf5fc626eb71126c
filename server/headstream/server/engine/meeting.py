"""Where the ranks of one engine find each other: a file in the directory of the engine's socket."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import torch.distributed as dist

_FOREVER = dt.timedelta(days=365)  # loading takes its time; whether we live is the front's business


class Meeting:
    """Others come; rank 0 names the checkpoint; they load; rank 0 tells what memory to use.

    The directory is for the server's user alone.
    """

    def __init__(self, address: str, num_ranks: int) -> None:
        """``address``: of the engine's socket."""
        path = Path(address.removeprefix("ipc://")).with_name("ranks")
        self.store = dist.FileStore(str(path), num_ranks)  # type: ignore[attr-defined]
        self._num_ranks = num_ranks

    def tell_checkpoint(self, directory: Path) -> None:
        """When the others are there: what to load. All of them go on to their group at once."""
        self._wait_for_others("here")
        self.store.set("checkpoint", str(directory))

    def hear_checkpoint(self, rank: int) -> Path:
        """Be there, and wait for it."""
        self.store.set(f"here/{rank}", "")
        return Path(self._hear("checkpoint"))

    def tell_memory(self, num_blocks: int, block_size: int) -> None:
        """When the others are loaded: the key/value memory that each of them has."""
        self._wait_for_others("loaded")
        self.store.set("memory", f"{num_blocks} {block_size}")

    def hear_memory(self, rank: int) -> tuple[int, int]:
        """Be loaded, and wait for it: blocks, and tokens of a block."""
        self.store.set(f"loaded/{rank}", "")
        num_blocks, block_size = self._hear("memory").split()
        return int(num_blocks), int(block_size)

    def _hear(self, what: str) -> str:
        self.store.wait([what], _FOREVER)
        return self.store.get(what).decode()

    def _wait_for_others(self, stage: str) -> None:
        self.store.wait([f"{stage}/{rank}" for rank in range(1, self._num_ranks)], _FOREVER)
