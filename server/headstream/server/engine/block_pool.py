"""Which blocks of KV memory are free, and how many sequences hold each of the others."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable


class BlockPool:
    """Block ids with reference counts. The tensors behind them belong to the runner."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(reversed(range(num_blocks)))  # taken from the end: low ids first
        self._refs = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks nobody holds."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks somebody holds."""
        return self.num_blocks - len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that ``num_tokens`` tokens need."""
        return -(-num_tokens // self.block_size)

    def can_allocate(self, count: int) -> bool:
        """Whether ``count`` blocks are free."""
        return count <= len(self._free)

    def num_refs(self, block: int) -> int:
        """How often a block is held."""
        return self._refs[block]

    def allocate(self, count: int) -> array[int]:
        """Take ``count`` free blocks (int32 ids), each with one reference."""
        if not self.can_allocate(count):
            raise AssertionError(f"{count} blocks wanted, {len(self._free)} free: ask first")
        taken = array("i", [self._free.pop() for _ in range(count)])
        for block in taken:
            self._refs[block] = 1
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Add a reference to blocks in use."""
        for block in blocks:
            if self._refs[block] == 0:
                raise AssertionError(f"block {block} is free and cannot be shared")
            self._refs[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Drop a reference of each block; those without one are free again."""
        for block in blocks:
            if self._refs[block] == 0:
                raise AssertionError(f"block {block} is released twice")
            self._refs[block] -= 1
            if self._refs[block] == 0:
                self._free.append(block)

    def is_shared(self, table: array[int], position: int) -> bool:
        """Whether others hold the block of ``position`` too, and something in it before."""
        place, offset = divmod(position, self.block_size)
        return offset > 0 and self._refs[table[place]] > 1

    def replace(self, table: array[int], position: int, fresh: int) -> tuple[int, int]:
        """Put ``fresh`` in the place of the block at ``position``; which block to copy where."""
        place = position // self.block_size
        shared, table[place] = table[place], fresh
        self.release((shared,))
        return shared, fresh

    def check_integrity(self, tables: Iterable[Iterable[int]]) -> None:
        """Prove that references equal the block tables in use and that no block is lost.

        Raises:
            AssertionError: a block leaked, or is held without a reference.
        """
        held = Counter(block for table in tables for block in table)
        wrong = [b for b in range(self.num_blocks) if self._refs[b] != held.get(b, 0)]
        if wrong:
            raise AssertionError(f"references differ from block tables for blocks {wrong[:8]}")
        free = set(self._free)
        if len(free) != len(self._free) or free != {
            block for block in range(self.num_blocks) if self._refs[block] == 0
        }:
            raise AssertionError("the free list is not the set of blocks without references")
