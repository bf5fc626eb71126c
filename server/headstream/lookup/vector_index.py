"""The index over the vectors of one table: when it is made, brought up to date, and made anew."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import structlog
from lancedb.index import BTree, IvfFlat, LabelList
from lancedb.table import AsyncTable

from headstream.lookup.cache import Vectors
from headstream.lookup.tables import CHUNKS

MIN_ROWS = 10_000
"""From which on there is an index; fewer rows are compared one by one."""
MAX_NEW = 2_000
"""Rows outside of the index until they are put in: each search compares with all of them."""
MAX_FRAGMENTS = 64
"""Files that small writes leave behind until they are made one."""
GROWTH = 4
"""The index is made anew, with more partitions, at this many times the rows it was made for."""
ROWS_PER_PARTITION = 400
MIN_PROBES = 16
PROBED_SHARE = 0.2
"""Of the partitions, those that a search looks through; more where a filter leaves too few rows."""
KEPT_VERSIONS = timedelta(minutes=10)
"""Readers of older states of a table have so long to end."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.lookup")


class VectorIndex:
    """Partitions by nearness (IVF); within them vectors are compared as they are."""

    def __init__(self, table: AsyncTable, name: str) -> None:
        self._table = table
        self._filtered = ["document_id"] if name == CHUNKS else ["document_id", "folded"]
        self._partitions = 0  # of the index; 0: not known yet
        self._updating = asyncio.Lock()

    async def query(self, vector: Vectors, *, exact: bool, filtered: bool) -> Any:
        """A query for the nearest to ``vector`` [d], by cosine.

        Where it will be ``filtered``, partitions without such rows are no end of the search.
        """
        query = self._table.query().nearest_to(vector).column("vector").distance_type("cosine")
        if exact:
            return query.bypass_vector_index()
        partitions = await self._find()
        if not partitions:
            return query
        probes = max(MIN_PROBES, math.ceil(partitions * PROBED_SHARE))
        query = query.nprobes(min(probes, partitions))
        return query.maximum_nprobes(partitions) if filtered else query

    async def unindexed(self) -> int:
        """Rows that are compared one by one."""
        partitions = await self._find()
        stats = await self._table.index_stats(_name(partitions)) if partitions else None
        return await self._table.count_rows() if stats is None else stats.num_unindexed_rows

    async def update(self, writing: asyncio.Lock, *, max_new: int = MAX_NEW) -> None:
        """Do what is due. ``writing`` is held where writers would be in the way.

        Raises:
            RuntimeError: A writer was faster; what is kept is as before.
        """
        async with self._updating:
            await self._update(writing, max_new)

    async def _update(self, writing: asyncio.Lock, max_new: int) -> None:
        rows = await self._table.count_rows()
        partitions = await self._find()
        if rows >= MIN_ROWS and rows >= GROWTH * partitions * ROWS_PER_PARTITION:
            await self._make(math.ceil(rows / ROWS_PER_PARTITION))
        stats: Any = await self._table.stats()  # a dictionary, whatever its annotation says
        fragments = stats["fragment_stats"]["num_small_fragments"]
        due = self._partitions and await self.unindexed() >= max(max_new, rows // 20)
        if due or fragments > MAX_FRAGMENTS:
            async with writing:
                await self._table.optimize(cleanup_older_than=KEPT_VERSIONS)

    async def _find(self) -> int:
        """The number of partitions of the index; 0 where there is none."""
        if not self._partitions:
            names = [index.name for index in await self._table.list_indices()]
            self._partitions = max(
                (int(name.removeprefix("vector_")) for name in names if name[:7] == "vector_"),
                default=0,
            )
        return self._partitions

    async def _make(self, partitions: int) -> None:
        """A new index beside the old one, while rows are added and searched."""
        log.info("indexing", partitions=partitions)
        old = self._partitions
        config = IvfFlat(distance_type="cosine", num_partitions=partitions)
        await self._table.create_index("vector", config=config, name=_name(partitions))
        self._partitions = partitions
        if old:
            await self._table.drop_index(_name(old))
        for column in self._filtered:
            await self._table.create_index(column, config=BTree(), replace=True)
        await self._table.create_index("tags", config=LabelList(), replace=True)


def _name(partitions: int) -> str:
    """The index tells by its name what it was made for."""
    return f"vector_{partitions}"
