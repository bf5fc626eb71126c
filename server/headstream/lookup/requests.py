"""From messages to values, with every limit checked before any work."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from headstream.lookup.cache import Vectors
from headstream.lookup.chunks import Range
from headstream.lookup.errors import InvalidRequest
from headstream.lookup.filters import DocumentFilter
from headstream.lookup.offsets import ByteOffsets
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import lookup_service_pb2 as pb

Unit = Literal["byte", "char"]

MAX_DOCUMENTS = 256
MAX_ID_BYTES = 256
MAX_KEYS = 32
MAX_VALUE_BYTES = 256
MAX_VALUES = 256
MAX_CONDITIONS = 16
MAX_HITS = 1000
DEFAULT_HITS = 10
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class WordQuery:
    """A part of a text, in code points, and whether hits must hold the same word."""

    text: str
    span: Range
    same: bool


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for."""

    query: str | Vectors | WordQuery  # a text, a vector [d] of length 1, or a word
    limit: int
    documents: DocumentFilter
    unit: Unit
    exact: bool


def check_documents(request: pb.AddDocumentsRequest) -> None:
    """Refuse documents that cannot be kept.

    Raises:
        InvalidRequest: Too many, twice the same id, or something is wrong with one of them.
    """
    ids = [document.id for document in request.documents]
    check_ids("documents", "id", ids)
    for i, document in enumerate(request.documents):
        field = f"documents[{i}]"
        if not document.text.strip():
            raise InvalidRequest(f"{field}.text", "is empty or blank")
        if "\x00" in document.text:
            raise InvalidRequest(f"{field}.text", "holds a zero byte")
        _check_metadata(f"{field}.metadata", dict(document.metadata))


def check_ids(field: str, name: str, ids: Sequence[str]) -> None:
    """Refuse ids that are no names of documents.

    Raises:
        InvalidRequest: Too many, none, an empty or long one, or the same twice.
    """
    if not 1 <= len(ids) <= MAX_DOCUMENTS:
        raise InvalidRequest(field, f"{len(ids)} given; must be 1 to {MAX_DOCUMENTS}")
    seen: set[str] = set()
    for i, id_ in enumerate(ids):
        place = f"{field}[{i}].{name}" if name else f"{field}[{i}]"
        if not 1 <= len(id_.encode()) <= MAX_ID_BYTES:
            raise InvalidRequest(place, f"must have 1 to {MAX_ID_BYTES} bytes")
        if id_ in seen:
            raise InvalidRequest(place, f"{id_!r} is there twice")
        seen.add(id_)


def document_digest(document: pb.Document, *, words: bool) -> str:
    """SHA-256 over all that is kept of a document, in hexadecimal."""
    parts = [document.text, sorted(document.metadata.items()), words]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def search(request: pb.SearchRequest, dimensions: int) -> Search:
    """What a request looks for; ``dimensions`` are those of the store.

    Raises:
        InvalidRequest: A field breaks a rule.
    """
    limit = request.limit if request.HasField("limit") else DEFAULT_HITS
    if not 1 <= limit <= MAX_HITS:
        raise InvalidRequest("limit", f"is {limit}; must be 1 to {MAX_HITS}")
    unit = _unit(request.offset_unit)
    return Search(
        _query(request, dimensions, unit), limit, _filter(request.filter), unit, request.exact
    )


def _query(request: pb.SearchRequest, dimensions: int, unit: Unit) -> str | Vectors | WordQuery:
    match request.WhichOneof("query"):
        case "text":
            if not request.text.strip():
                raise InvalidRequest("text", "is empty or blank")
            return request.text
        case "vector":
            return _vector(request.vector, dimensions)
        case "word":
            return _word(request.word, unit)
        case _:
            raise InvalidRequest("query", "none of text, vector and word is set")


def _vector(query: pb.QueryVector, dimensions: int) -> Vectors:
    vector = np.array(query.values, np.float32)
    if len(vector) != dimensions:
        raise InvalidRequest(
            "vector.values", f"{len(vector)} given; the store's vectors have {dimensions}"
        )
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(length) or length == 0:
        raise InvalidRequest("vector.values", "must be finite, and not all zero")
    unit: Vectors = (vector / length).astype(np.float32)
    return unit


def _word(query: pb.WordInContext, unit: Unit) -> WordQuery:
    start, end = query.span.start, query.span.end
    if unit == "byte":
        places = ByteOffsets(query.text)
        chars = (places.char(start), places.char(end))
    else:
        length = len(query.text)
        chars = (start if start <= length else None, end if end <= length else None)
    if chars[0] is None or chars[1] is None or chars[0] >= chars[1]:
        raise InvalidRequest(
            "word.span", f"[{start}, {end}) in {unit}s is empty, or no part of the text"
        )
    return WordQuery(query.text, (chars[0], chars[1]), query.same_word)


def _filter(request: pb.Filter) -> DocumentFilter:
    if len(request.conditions) > MAX_CONDITIONS:
        raise InvalidRequest(
            "filter.conditions", f"{len(request.conditions)} given; at most {MAX_CONDITIONS}"
        )
    for i, condition in enumerate(request.conditions):
        field = f"filter.conditions[{i}]"
        _check_key(f"{field}.key", condition.key)
        if not 1 <= len(condition.any_of) <= MAX_VALUES:
            raise InvalidRequest(
                f"{field}.any_of", f"{len(condition.any_of)} given; must be 1 to {MAX_VALUES}"
            )
    if request.document_ids:
        check_ids("filter.document_ids", "", request.document_ids)
    conditions = [(c.key, tuple(c.any_of)) for c in request.conditions]
    return DocumentFilter(conditions, tuple(request.document_ids))


def _check_metadata(field: str, metadata: dict[str, str]) -> None:
    if len(metadata) > MAX_KEYS:
        raise InvalidRequest(field, f"{len(metadata)} keys given; at most {MAX_KEYS}")
    for key, value in metadata.items():
        _check_key(field, key)
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise InvalidRequest(f"{field}[{key}]", f"has more than {MAX_VALUE_BYTES} bytes")


def _check_key(field: str, key: str) -> None:
    if not _KEY.fullmatch(key):
        raise InvalidRequest(
            field, f"{key!r} is no key: a letter or _, then letters, digits, _ . or -, at most 64"
        )


def _unit(unit: embeddings_pb.OffsetUnit.ValueType) -> Unit:
    if unit == embeddings_pb.OFFSET_UNIT_CHAR:
        return "char"
    if unit in {embeddings_pb.OFFSET_UNIT_UNSPECIFIED, embeddings_pb.OFFSET_UNIT_BYTE}:
        return "byte"
    raise InvalidRequest("offset_unit", f"{unit} is no unit")
