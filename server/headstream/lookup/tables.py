"""The columns of the store, and rows in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from headstream.lookup.cache import Vectors
from headstream.lookup.filters import tags
from headstream.lookup.offsets import ByteOffsets
from headstream.lookup.reading import Reading

CHUNKS, WORDS = "chunks", "words"
PLACE = ("start_char", "end_char", "start_byte", "end_byte")

_COMMON = [
    pa.field("document_id", pa.string(), nullable=False),
    pa.field("number", pa.int32(), nullable=False),  # counts the rows of a document
    *(pa.field(name, pa.int64(), nullable=False) for name in PLACE),
    pa.field("tags", pa.list_(pa.string()), nullable=False),
]
_OWN = {
    CHUNKS: [
        pa.field("text", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),  # of the document, as it was sent
    ],
    WORDS: [
        pa.field("chunk", pa.int32(), nullable=False),  # the number of its chunk
        pa.field("word", pa.string(), nullable=False),
        pa.field("folded", pa.string(), nullable=False),  # without capitals
    ],
}


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document with its vectors, ready to be written."""

    id: str
    text: str
    metadata: dict[str, str]
    digest: str  # over all that was sent of it
    reading: Reading


def schema(table: str, dimensions: int, identity: str) -> pa.Schema:
    """Of one of the tables. What its vectors are goes along, in the schema itself."""
    vector = pa.field("vector", pa.list_(pa.float32(), dimensions), nullable=False)
    return pa.schema([*_COMMON, *_OWN[table], vector], metadata={"headstream": identity})


def chunk_rows(documents: Sequence[ReadDocument], into: pa.Schema) -> pa.Table:
    """One row per chunk."""
    rows: list[dict[str, Any]] = []
    for document in documents:
        places = ByteOffsets(document.text)
        rows += [
            _row(document, number, span, places)
            | {"text": document.text[slice(*span)], "digest": document.digest}
            for number, span in enumerate(document.reading.chunks)
        ]
    return _table(rows, [document.reading.chunk_vectors for document in documents], into)


def word_rows(documents: Sequence[ReadDocument], into: pa.Schema) -> pa.Table:
    """One row per word."""
    rows: list[dict[str, Any]] = []
    for document in documents:
        places = ByteOffsets(document.text)
        for number, (chunk, span) in enumerate(document.reading.words):
            word = document.text[slice(*span)]
            rows.append(
                _row(document, number, span, places)
                | {"chunk": chunk, "word": word, "folded": word.casefold()}
            )
    return _table(rows, [document.reading.word_vectors for document in documents], into)


def _row(
    document: ReadDocument, number: int, span: tuple[int, int], places: ByteOffsets
) -> dict[str, Any]:
    ends = (*span, *(places.byte(char) for char in span))
    return {
        "document_id": document.id,
        "number": number,
        **dict(zip(PLACE, ends, strict=True)),
        "tags": tags(document.metadata),
    }


def _table(rows: Sequence[dict[str, Any]], vectors: Sequence[Vectors], into: pa.Schema) -> pa.Table:
    flat = np.concatenate(vectors).ravel()
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(flat), type=column.type)
        if column.name == "vector"
        else pa.array([row[column.name] for row in rows], column.type)
        for column in into
    ]
    return pa.table(columns, schema=into)
