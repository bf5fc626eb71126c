"""Which chunks of prompts lie in KV memory already, for other sequences to share."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator

from headstream.model.batch import PREFILL_GRID
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.sequence import Sequence


class PrefixCache:
    """Blocks of computed prompt chunks, found by the tokens of the chunk and of all before it.

    A chunk begins and ends on the prefill grid and on the edge of a block, counted from token 0.
    Its keys and values are to the bit those that any prompt with the same tokens up to its end
    would compute, since prompts are cut on that grid only. Generated tokens are never shared: a
    backend may compute them by other kernels, with other bits than a prompt of the same tokens.

    The cache holds one reference to each of its blocks, and every sequence that shares them
    another. A sequence holds a chain from token 0 on, never a chunk without those before it; so no
    chunk is idle (held by the cache alone) before those behind it are. Sequences give chains back
    from the end, and the chunk that became idle first is evicted first: what lies behind a chunk
    is gone before the chunk is.
    """

    def __init__(self, pool: BlockPool, *, enabled: bool = True) -> None:
        """``enabled``: otherwise sequences get no keys, so nothing is found and nothing kept."""
        self.enabled = enabled
        self.chunk_size = math.lcm(PREFILL_GRID, pool.block_size)  # tokens
        self._pool = pool
        self._chunk_blocks = self.chunk_size // pool.block_size
        self._chunks: dict[bytes, array[int]] = {}  # key -> its blocks, in order
        self._idle: OrderedDict[bytes, None] = OrderedDict()  # first to become idle first

    @property
    def num_idle(self) -> int:
        """Blocks that only the cache holds: free for the taking."""
        return len(self._idle) * self._chunk_blocks

    def num_freed(self, sequences: Collection[Sequence]) -> int:
        """Blocks that are free, or idle, when these sequences give back theirs."""
        held = Counter(block for each in sequences for block in each.block_ids)
        for key in {key for each in sequences for key in each.chunk_keys[: each.num_chunks]}:
            held.update(self._chunks[key])  # the cache's own reference
        return sum(self._pool.num_refs(block) == count for block, count in held.items())

    def keys(self, token_ids: array[int], salt: bytes) -> tuple[bytes, ...]:
        """The keys of all whole chunks of a prompt (int64 ids)."""
        if not self.enabled:
            return ()
        return tuple(_chain(token_ids, self.chunk_size, salt))

    def take(self, sequence: Sequence) -> int:
        """Let a sequence share the cached chunks that come next in it; the tokens it need not run.

        Positions whose rows somebody waits for are never skipped.
        """
        start = sequence.num_computed
        last = min(len(sequence.chunk_keys), sequence.num_skippable // self.chunk_size)
        while (
            sequence.num_chunks < last
            and sequence.num_computed == sequence.num_chunks * self.chunk_size
            and (blocks := self._share(sequence.chunk_keys[sequence.num_chunks])) is not None
        ):
            sequence.block_ids += blocks
            sequence.num_chunks += 1
            sequence.num_computed += self.chunk_size
        hit = sequence.num_computed - start
        sequence.num_cached += hit
        return hit

    def put(self, sequence: Sequence) -> None:
        """Keep the prompt chunks that a sequence has computed.

        Where another was quicker the sequence goes over to its blocks, which hold the same bits.
        """
        computed = min(len(sequence.chunk_keys), sequence.num_computed // self.chunk_size)
        for index in range(sequence.num_chunks, computed):
            key = sequence.chunk_keys[index]
            place = slice(index * self._chunk_blocks, (index + 1) * self._chunk_blocks)
            own = sequence.block_ids[place]
            if (blocks := self._share(key)) is not None:
                sequence.block_ids[place] = blocks
                self._pool.release(own)
            else:
                self._chunks[key] = own
                self._pool.share(own)
            sequence.num_chunks = index + 1

    def release(self, sequence: Sequence, num_kept: int = 0) -> None:
        """Take back the blocks behind the first ``num_kept`` tokens, whose end cuts no chunk.

        The prompt's computed chunks stay findable.
        """
        kept_blocks = self._pool.blocks_for(num_kept)
        kept_chunks = min(sequence.num_chunks, num_kept // self.chunk_size)
        self._pool.release(sequence.block_ids[kept_blocks:])
        for key in reversed(sequence.chunk_keys[kept_chunks : sequence.num_chunks]):
            if self._pool.num_refs(self._chunks[key][0]) == 1:
                self._idle[key] = None
        sequence.block_ids = sequence.block_ids[:kept_blocks]
        sequence.num_chunks = kept_chunks

    def cut(self, sequence: Sequence, num_kept: int) -> None:
        """The same; what is behind these tokens is computed again."""
        self.release(sequence, num_kept)
        sequence.num_computed = num_kept
        sequence.num_cached = min(sequence.num_cached, num_kept)

    def evict(self, num_blocks: int) -> None:
        """Free at least ``num_blocks`` idle blocks, in whole chunks, the longest idle first."""
        goal = self._pool.num_free + num_blocks
        while self._pool.num_free < goal:
            key, _ = self._idle.popitem(last=False)
            self._pool.release(self._chunks.pop(key))

    def _share(self, key: bytes) -> array[int] | None:
        """The blocks of a chunk, with one reference more; None: it is not here."""
        blocks = self._chunks.get(key)
        if blocks is not None:
            self._pool.share(blocks)
            self._idle.pop(key, None)
        return blocks

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Prove that references and idle chunks equal what the running sequences hold.

        Raises:
            AssertionError: a block leaked, or a chunk somebody holds could be evicted.
        """
        sequences = list(running)
        self._pool.check_integrity(
            [*(sequence.block_ids for sequence in sequences), *self._chunks.values()]
        )
        held: set[bytes] = set()
        for sequence in sequences:
            keys = sequence.chunk_keys[: sequence.num_chunks]
            shared = array("i", [block for key in keys for block in self._chunks[key]])
            if sequence.block_ids[: len(shared)] != shared:
                raise AssertionError(f"sequence {sequence.spec.id} holds other blocks than shared")
            held.update(keys)
        if set(self._idle) != self._chunks.keys() - held:
            raise AssertionError("the idle chunks are not those without a sequence")


def _chain(token_ids: array[int], size: int, salt: bytes) -> Iterator[bytes]:
    """Each key is a digest of the key before it and of its own tokens.

    Equal keys mean equal tokens from token 0 on and an equal salt, with 256 bits against accidents
    and forgery.
    """
    key = hashlib.blake2b(salt, digest_size=32).digest()
    for end in range(size, len(token_ids) + 1, size):
        chunk = token_ids[end - size : end].tobytes()
        key = hashlib.blake2b(key + chunk, digest_size=32).digest()
        yield key
