"""LookupService: what is asked for, done with the embedder and the store."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import grpc.aio
from google.protobuf.message import Message

from headstream.lookup import requests
from headstream.lookup.cache import Vectors
from headstream.lookup.embedder import Embedder
from headstream.lookup.errors import InvalidRequest
from headstream.lookup.filters import metadata
from headstream.lookup.identity import Identity
from headstream.lookup.requests import WordQuery
from headstream.lookup.store import Found, Store
from headstream.lookup.tables import CHUNKS, WORDS, ReadDocument
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import lookup_service_pb2 as pb
from headstream.v1 import lookup_service_pb2_grpc, types_pb2

Context = grpc.aio.ServicerContext[Message, Message]


class LookupService(lookup_service_pb2_grpc.LookupServiceServicer):
    """Adds, finds and forgets documents."""

    def __init__(self, embedder: Embedder, store: Store) -> None:
        self._embedder = embedder
        self._store = store

    @property
    def identity(self) -> Identity:
        """Whose vectors are kept."""
        return self._store.identity

    async def AddDocuments(  # noqa: N802 - named by the contract
        self,
        request: pb.AddDocumentsRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.AddDocumentsResponse:
        """Read what is new, write it, and answer when it is written."""
        requests.check_documents(request)
        words = request.words
        digests = {d.id: requests.document_digest(d, words=words) for d in request.documents}
        before = await self._store.digests(list(digests))
        changed = [d for d in request.documents if before.get(d.id) != digests[d.id]]
        readings = await asyncio.gather(
            *(self._embedder.read(d.text, words=words) for d in changed)
        )
        documents = [
            ReadDocument(d.id, d.text, dict(d.metadata), digests[d.id], reading)
            for d, reading in zip(changed, readings, strict=True)
        ]
        for document in documents:
            if not document.reading.chunks:
                index = list(digests).index(document.id)
                raise InvalidRequest(f"documents[{index}].text", "the model sees no token in it")
        if documents:
            await self._store.write(documents)
        return pb.AddDocumentsResponse(
            outcomes=[_outcome(before.get(id_), digest) for id_, digest in digests.items()],
            embedded=sum(reading.computed for reading in readings),
            cached=sum(reading.cached for reading in readings),
        )

    async def Search(  # noqa: N802 - named by the contract
        self,
        request: pb.SearchRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.SearchResponse:
        """The nearest chunks or words."""
        wanted = requests.search(request, self.identity.dimensions)
        word = wanted.query if isinstance(wanted.query, WordQuery) else None
        found = await self._store.search(
            WORDS if word else CHUNKS,
            await self._query_vector(wanted.query),
            limit=wanted.limit,
            documents=wanted.documents,
            folded=word.text[slice(*word.span)].casefold() if word and word.same else None,
            exact=wanted.exact,
        )
        if word is None:
            texts = [hit.row["text"] for hit in found]
        else:
            places = [(hit.row["document_id"], hit.row["chunk"]) for hit in found]
            kept = await self._store.chunk_texts(places)
            texts = [kept.get(place, "") for place in places]  # deleted in between: no text
        hits = [_hit(hit, text, wanted.unit) for hit, text in zip(found, texts, strict=True)]
        return pb.SearchResponse(hits=hits)

    async def DeleteDocuments(  # noqa: N802 - named by the contract
        self,
        request: pb.DeleteDocumentsRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.DeleteDocumentsResponse:
        """Forget documents, and answer when they are gone."""
        requests.check_ids("ids", "", request.ids)
        return pb.DeleteDocumentsResponse(deleted=await self._store.delete(request.ids))

    async def GetStats(  # noqa: N802 - named by the contract
        self,
        request: pb.GetStatsRequest,  # noqa: ARG002 - it is empty
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> pb.GetStatsResponse:
        """What is kept, and what was done."""
        documents, chunks, words, unindexed = await self._store.counts()
        identity = self.identity
        return pb.GetStatsResponse(
            documents=documents,
            chunks=chunks,
            words=words,
            unindexed=unindexed,
            dimensions=identity.dimensions,
            fingerprint=types_pb2.ModelFingerprint(**asdict(identity.fingerprint)),
            embedded=self._embedder.computed,
            cached=self._embedder.cached,
        )

    async def _query_vector(self, query: str | Vectors | WordQuery) -> Vectors:
        """[d], of length 1."""
        if isinstance(query, str):
            return await self._embedder.query(query)
        if isinstance(query, WordQuery):
            return await self._embedder.word(query.text, query.span)
        return query


def _outcome(before: str | None, digest: str) -> pb.AddOutcome.ValueType:
    if before is None:
        return pb.ADD_OUTCOME_ADDED
    return pb.ADD_OUTCOME_UNCHANGED if before == digest else pb.ADD_OUTCOME_REPLACED


def _hit(found: Found, text: str, unit: requests.Unit) -> pb.Hit:
    row = found.row
    return pb.Hit(
        document_id=row["document_id"],
        score=found.score,
        span=embeddings_pb.Span(start=row[f"start_{unit}"], end=row[f"end_{unit}"]),
        text=text,
        word=row.get("word", ""),
        metadata=metadata(row["tags"]),
    )
