"""Documents on disk or in object storage: two tables of LanceDB, of chunks and of words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import lancedb
import pyarrow as pa
import structlog
from lancedb.table import AsyncTable

from headstream.lookup import tables
from headstream.lookup.cache import Vectors
from headstream.lookup.errors import ModelChanged
from headstream.lookup.filters import DocumentFilter, is_one_of
from headstream.lookup.identity import Identity
from headstream.lookup.tables import CHUNKS, WORDS, ReadDocument
from headstream.lookup.vector_index import VectorIndex

RETRIES_WITHIN = timedelta(seconds=30)
CLOSE_SECONDS = 15.0
"""That a change which was begun may take when the store is closed."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.lookup")


@dataclass(frozen=True, slots=True)
class Found:
    """A row near to a query."""

    row: Mapping[str, Any]  # its columns, but for the vector
    score: float  # cosine


class Store:
    """The only writer of its tables; readers may be many.

    The rows of a table are replaced in one commit. What a document was made from, its digest, is
    with its chunks, and those are replaced last; before anything else, in a commit of its own, the
    digest of what was there is taken away. So a crash in between leaves no digest of what is not
    whole, and the same document, sent again, is written again.
    """

    def __init__(self, chunks: AsyncTable, words: AsyncTable, identity: Identity) -> None:
        self.identity = identity
        self._tables = {CHUNKS: chunks, WORDS: words}
        self._schemas = {
            name: tables.schema(name, identity.dimensions, identity.to_json())
            for name in self._tables
        }
        self._indexes = {name: VectorIndex(table, name) for name, table in self._tables.items()}
        self._writing = asyncio.Lock()
        self._change: asyncio.Task[int] | None = None  # the one that holds `_writing`
        self._changing: frozenset[str] = frozenset()  # the documents that it changes
        self._upkeep: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, uri: str, options: Mapping[str, str], identity: Identity) -> Store:
        """Open the store at a path or a URL such as ``s3://bucket/path``, or make it.

        Raises:
            ModelChanged: It holds the vectors of another model.
        """
        # Every reader sees what is acknowledged, also where another machine has written it.
        interval = timedelta(0)
        database = await lancedb.connect_async(
            uri, storage_options=dict(options), read_consistency_interval=interval
        )
        opened: list[AsyncTable] = []
        for name in (WORDS, CHUNKS):
            wanted = tables.schema(name, identity.dimensions, identity.to_json())
            table = await _open_or_create(database, name, wanted)
            kept: Any = (await table.schema()).metadata or {}
            difference = Identity.from_json(kept[b"headstream"].decode()).difference(identity)
            if difference:
                raise ModelChanged(difference)
            opened.append(table)
        words, chunks = opened
        return cls(chunks, words, identity)

    async def digests(self, ids: Iterable[str]) -> dict[str, str]:
        """The digest of each of these documents that is there; "" if it may not be whole."""
        changing = self._changing  # as of now: what is begun later is beside this, not before it
        condition = f"number = 0 AND {is_one_of('document_id', list(ids))}"
        rows = await self._rows(CHUNKS, condition, ("document_id", "digest"))
        found = {row["document_id"]: row["digest"] for row in rows}
        return {id_: "" if id_ in changing else digest for id_, digest in found.items()}

    async def write(self, documents: Sequence[ReadDocument]) -> None:
        """Write documents in place of those of the same ids. It is done when this returns."""
        chunks = tables.chunk_rows(documents, self._schemas[CHUNKS])
        words = tables.word_rows(documents, self._schemas[WORDS])
        ids = [document.id for document in documents]
        await self._put(ids, {WORDS: words, CHUNKS: chunks})

    async def delete(self, ids: Sequence[str]) -> int:
        """Forget documents; returns how many were there."""
        nothing = {name: schema.empty_table() for name, schema in self._schemas.items()}
        return await self._put(ids, nothing)

    async def search(
        self,
        table: str,
        vector: Vectors,
        *,
        limit: int,
        documents: DocumentFilter,
        folded: str | None = None,
        exact: bool = False,
    ) -> list[Found]:
        """The rows whose vectors are nearest to ``vector`` [d], of length 1; nearest first.

        Args:
            table: CHUNKS or WORDS.
            vector: What they are compared with.
            limit: Most rows.
            documents: Whose rows count.
            folded: Of words: the one that counts, without capitals.
            exact: Compare with all rows.
        """
        conditions = [documents.where(), folded and is_one_of("folded", [folded])]
        where = " AND ".join(condition for condition in conditions if condition)
        query = await self._indexes[table].query(vector, exact=exact, filtered=bool(where))
        columns = [name for name in self._schemas[table].names if name != "vector"]
        query = query.select([*columns, "_distance"]).limit(limit)
        rows = await (query.where(where) if where else query).to_list()
        return [Found(row, 1 - row["_distance"]) for row in rows]

    async def chunk_texts(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """The texts of chunks, each given by its document and number."""
        wanted = set(places)
        if not wanted:
            return {}
        ids = is_one_of("document_id", sorted({document for document, _ in wanted}))
        numbers = ", ".join(str(number) for number in sorted({number for _, number in wanted}))
        columns = ("document_id", "number", "text")
        rows = await self._rows(CHUNKS, f"{ids} AND number IN ({numbers})", columns)
        return {(row["document_id"], row["number"]): row["text"] for row in rows}

    async def counts(self) -> tuple[int, int, int, int]:
        """Documents, chunks, words, and vectors that no index holds."""
        chunks, words = self._tables[CHUNKS], self._tables[WORDS]
        unindexed = [await index.unindexed() for index in self._indexes.values()]
        return (
            await chunks.count_rows("number = 0"),
            await chunks.count_rows(),
            await words.count_rows(),
            sum(unindexed),
        )

    async def settle(self) -> None:
        """Bring the indexes up to date now, and wait for it."""
        for index in self._indexes.values():
            await index.update(self._writing, max_new=1)

    async def close(self) -> None:
        """Leave the tables as they are, once a change that was begun is whole.

        One that takes longer than ``CLOSE_SECONDS`` is cut, as by a crash.
        """
        if (change := self._change) is not None:
            _, late = await asyncio.wait({change}, timeout=CLOSE_SECONDS)
            if late:
                log.warning("change cut", seconds=CLOSE_SECONDS)
                change.cancel()
                await asyncio.wait(late)
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.wait({self._upkeep})
        for table in self._tables.values():
            table.close()

    async def _put(self, ids: Sequence[str], rows: Mapping[str, pa.Table]) -> int:
        """Put rows in place of all rows of these documents; returns how many were there.

        A caller who leaves does not stop it once it is begun. One who leaves before that takes it
        along: carried out later, it would undo what others were told meanwhile.
        """
        await self._writing.acquire()
        self._changing = frozenset(ids)
        self._change = change = asyncio.create_task(self._commit(ids, rows))
        change.add_done_callback(self._end_change)
        try:
            return await asyncio.shield(change)
        except asyncio.CancelledError:
            change.add_done_callback(_log_failure)  # nobody else is told
            raise

    def _end_change(self, _: asyncio.Task[int]) -> None:
        self._change, self._changing = None, frozenset()
        self._writing.release()

    async def _commit(self, ids: Sequence[str], rows: Mapping[str, pa.Table]) -> int:
        chunks, first = self._tables[CHUNKS], f"number = 0 AND {is_one_of('document_id', ids)}"
        if there := await chunks.count_rows(first):
            await chunks.update({"digest": ""}, where=first)
        for name in (WORDS, CHUNKS):
            await self._replace(name, ids, rows[name])
        self._keep_up()
        return there

    async def _replace(self, name: str, ids: Sequence[str], rows: pa.Table) -> None:
        """Put rows in place of all rows of these documents, in one commit."""
        table, mine = self._tables[name], is_one_of("document_id", ids)
        if not await table.count_rows(mine):
            if rows.num_rows:
                await table.add(rows)
        elif not rows.num_rows:
            await table.delete(mine)
        else:
            merge = table.merge_insert(["document_id", "number"])
            merge = merge.when_matched_update_all().when_not_matched_insert_all()
            await merge.when_not_matched_by_source_delete(mine).execute(
                rows, timeout=RETRIES_WITHIN
            )

    async def _rows(self, name: str, where: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        query = self._tables[name].query().where(where).select(list(columns))
        return await query.to_list()

    def _keep_up(self) -> None:
        """Bring the indexes up to date beside the calls, one such work at a time."""
        if self._upkeep is None or self._upkeep.done():
            self._upkeep = asyncio.create_task(self._update_indexes())

    async def _update_indexes(self) -> None:
        for name, index in self._indexes.items():
            try:
                await index.update(self._writing)
            except RuntimeError as error:  # what LanceDB raises; the next write tries again
                log.warning("index not updated", table=name, error=str(error))


def _log_failure(change: asyncio.Task[int]) -> None:
    if not change.cancelled() and (error := change.exception()) is not None:
        log.warning("change failed after its caller had left", error=str(error))


async def _open_or_create(
    database: lancedb.AsyncConnection, name: str, schema: pa.Schema
) -> AsyncTable:
    """A table as it is kept, or a new one without rows."""
    try:
        return await database.open_table(name)
    except ValueError:  # what LanceDB says of a table that is not there
        return await database.create_table(name, schema=schema)
