"""What is found: by text, vector and word, among real vectors of MiniLM."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from headstream.client import Client
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import lookup_service_pb2 as pb
from lookup_process import CHAR, Lookup

BANKS = {
    "fisher": "He sat on the bank of the river and fished.",
    "loan": "She put her money in the bank and took a loan.",
    "mud": "The river bank was muddy after the rain.",
    "rates": "The bank raised its interest rates.",
    "shore": "We saw a shore with no boats.",
}
LONG = " ".join(
    f"Chapter {i}. The captain of ship number {i} wrote about the weather, the crew and the price "
    f"of salt in the harbours that they had seen. 日本語も、{i}。 Nobody had asked him to! 👩‍👩‍👧"
    for i in range(30)
)


def test_by_text(lookup: Lookup) -> None:
    lookup.add(BANKS)
    hits = lookup.search("borrowing for a house", limit=2)
    assert [hit.document_id for hit in hits] == ["loan", "rates"]
    assert hits[0].text == BANKS["loan"]
    assert hits[0].score > hits[1].score > 0


def test_scores_are_cosines_of_the_models_own_vectors(lookup: Lookup, client: Client) -> None:
    lookup.add(BANKS)
    query = client.embed("a muddy stream")
    for exact in (False, True):
        hits = lookup.search("a muddy stream", exact=exact)
        assert len(hits) == len(BANKS)
        for hit in hits:
            text = BANKS[hit.document_id]
            vector = client.embed_spans(text, [(0, len(text))])[0]
            assert hit.score == pytest.approx(float(vector @ query), abs=1e-5)


def test_by_vector_of_any_length(lookup: Lookup, client: Client) -> None:
    lookup.add(BANKS)
    vector = 7 * client.embed_spans(BANKS["mud"], [(0, len(BANKS["mud"]))])[0]
    [hit] = lookup.search(vector=pb.QueryVector(values=vector), limit=1)
    assert (hit.document_id, round(hit.score, 5)) == ("mud", 1.0)


def test_words_are_found_by_their_sense(lookup: Lookup) -> None:
    """The same word, and the two senses of it in order."""
    lookup.add(BANKS, words=True)
    water = lookup.search_word("We walked along the bank of the stream.", "bank", same=True)
    money = lookup.search_word("My bank lends at two percent.", "bank", same=True)
    assert {hit.word for hit in (*water, *money)} == {"bank"}
    assert {hit.document_id for hit in water[:2]} == {"fisher", "mud"}
    assert {hit.document_id for hit in money[:2]} == {"loan", "rates"}
    for hit in water:
        assert hit.text == BANKS[hit.document_id]
        assert hit.text[hit.span.start : hit.span.end] == "bank"
    anything = lookup.search_word("We walked along the bank of the stream.", "bank")
    assert {"bank", "shore", "river"} & {hit.word for hit in anything}
    assert len({hit.word for hit in anything}) > 1


def test_it_means_the_chicken_or_the_road(lookup: Lookup) -> None:
    chicken = "The chicken didn't cross the road because it was too"
    lookup.add({"tired": f"{chicken} tired.", "wide": f"{chicken} wide."}, words=True)
    for sense in ("tired", "wide"):
        hits = lookup.search_word(f"The dog didn't cross the street, it was too {sense}.", "it")
        its = [hit for hit in hits if hit.word == "it"]
        assert its[0].document_id == sense
        assert its[0].score > its[1].score + 0.01


def test_without_words_there_are_none(lookup: Lookup) -> None:
    lookup.add(BANKS)
    assert lookup.search_word("the bank", "bank") == []
    assert lookup.stats().words == 0


def test_long_documents_have_the_vectors_of_late_chunking(lookup: Lookup, client: Client) -> None:
    """Spans are exact in bytes and code points, and a chunk's vector knows its neighbours."""
    lookup.add({"log": LONG}, words=True)
    by_char = lookup.search("salt", limit=1000, offset_unit=CHAR)
    by_byte = lookup.search("salt", limit=1000)
    assert len(by_char) == lookup.stats().chunks > 20
    data = LONG.encode()
    for char, byte in zip(by_char, by_byte, strict=True):
        assert LONG[char.span.start : char.span.end] == char.text == byte.text
        assert data[byte.span.start : byte.span.end].decode() == byte.text
        assert len(client.tokenize(char.text)) <= 64 + 2
    hits = sorted(by_char, key=lambda hit: hit.span.start)
    assert "".join("".join(hit.text for hit in hits).split()) == "".join(LONG.split())
    spans = [(hit.span.start, hit.span.end) for hit in hits]
    query = client.embed("salt")
    first = hits[0]
    naive = client.embed_spans(first.text, spans[:1])[0] @ query
    ends = [end for _, end in spans[1:6] if len(client.tokenize(LONG[:end])) <= 256]
    windows = [client.embed_spans(LONG[:end], spans[:1])[0] @ query for end in ends]
    assert min(abs(first.score - late) for late in windows) < 1e-5  # one of them is what was read
    assert abs(first.score - naive) > 1e-3
    words = lookup.search_word("the captain", "captain", same=True, limit=1000)
    assert len(words) == 30


def test_filters(lookup: Lookup) -> None:
    lookup.add({"a": "A red apple."}, kind="fruit", colour="it's red")
    lookup.add({"b": "A green apple."}, kind="fruit", colour="green")
    lookup.add({"c": "A red car."}, kind="car", colour="it's red")

    def found(*conditions: tuple[str, list[str]], ids: tuple[str, ...] = ()) -> set[str]:
        parts = [pb.Condition(key=key, any_of=values) for key, values in conditions]
        chosen = pb.Filter(conditions=parts, document_ids=ids)
        return {hit.document_id for hit in lookup.search("apple", filter=chosen)}

    assert found() == {"a", "b", "c"}
    assert found(("kind", ["fruit"])) == {"a", "b"}
    assert found(("kind", ["fruit"]), ("colour", ["it's red"])) == {"a"}
    assert found(("colour", ["green", "it's red"])) == {"a", "b", "c"}
    assert found(("kind", ["') OR ('' = '"])) == set()
    assert found(("size", [""])) == set()
    assert found(ids=("b", "c", "nobody")) == {"b", "c"}
    [hit] = lookup.search("apple", limit=1, filter=pb.Filter(document_ids=["a"]))
    assert dict(hit.metadata) == {"kind": "fruit", "colour": "it's red"}


def test_deleted_documents_are_not_found(lookup: Lookup) -> None:
    lookup.add(BANKS, words=True)
    assert lookup.delete("loan", "rates", "nobody") == 2
    assert lookup.delete("loan") == 0
    left = {hit.document_id for hit in lookup.search("a loan")}
    assert left == {"fisher", "mud", "shore"}
    words = {hit.document_id for hit in lookup.search_word("the bank", "bank", limit=1000)}
    assert words == left
    assert lookup.stats().documents == 3


def test_stats(lookup: Lookup, client: Client) -> None:
    before = lookup.stats()
    reply = lookup.add(BANKS, words=True)
    stats = lookup.stats()
    words = sum(len(text.replace(".", "").split()) for text in BANKS.values())
    assert (stats.documents, stats.chunks, stats.words) == (5, 5, words)
    assert stats.dimensions == 384
    assert reply.embedded + reply.cached == 5 + words
    assert stats.embedded - before.embedded == reply.embedded
    assert stats.cached - before.cached == reply.cached
    assert stats.unindexed == 5 + words
    assert stats.fingerprint.weights_sha256 == client.model().fingerprint.weights_sha256


def span(start: int, end: int) -> embeddings_pb.Span:
    return embeddings_pb.Span(start=start, end=end)


def document(**fields: Any) -> pb.Document:
    values: dict[str, Any] = {"id": "a", "text": "x", **fields}
    return pb.Document(**values)


def add(*documents: pb.Document) -> pb.AddDocumentsRequest:
    return pb.AddDocumentsRequest(documents=documents)


def word(**fields: Any) -> pb.SearchRequest:
    return pb.SearchRequest(word=pb.WordInContext(**fields))


def condition(**fields: Any) -> pb.SearchRequest:
    return pb.SearchRequest(text="a", filter=pb.Filter(conditions=[pb.Condition(**fields)]))


BAD: list[tuple[str, Any, str]] = [
    ("AddDocuments", add(), "documents"),
    ("AddDocuments", add(*[document(id=str(i)) for i in range(257)]), "documents"),
    ("AddDocuments", add(document(), document()), "documents[1].id"),
    ("AddDocuments", add(document(id="")), "documents[0].id"),
    ("AddDocuments", add(document(id="é" * 129)), "documents[0].id"),
    ("AddDocuments", add(document(text=" \n")), "documents[0].text"),
    ("AddDocuments", add(document(id="b"), document(text="\u0007")), "documents[1].text"),
    ("AddDocuments", add(document(metadata={"a=b": "c"})), "documents[0].metadata"),
    ("AddDocuments", add(document(metadata={"a": "c" * 257})), "documents[0].metadata[a]"),
    ("Search", pb.SearchRequest(), "query"),
    ("Search", pb.SearchRequest(text=" "), "text"),
    ("Search", pb.SearchRequest(text="a", limit=0), "limit"),
    ("Search", pb.SearchRequest(text="a", limit=1001), "limit"),
    ("Search", pb.SearchRequest(vector=pb.QueryVector(values=[1, 2])), "vector.values"),
    ("Search", pb.SearchRequest(vector=pb.QueryVector(values=[0] * 384)), "vector.values"),
    ("Search", pb.SearchRequest(vector=pb.QueryVector(values=[np.nan] * 384)), "vector.values"),
    ("Search", word(text="aé", span=span(1, 2)), "word.span"),
    ("Search", word(text="ab", span=span(1, 1)), "word.span"),
    ("Search", word(text="ab", span=span(1, 3)), "word.span"),
    ("Search", condition(key="a b", any_of=["c"]), "filter.conditions[0].key"),
    ("Search", condition(key="a"), "filter.conditions[0].any_of"),
    ("DeleteDocuments", pb.DeleteDocumentsRequest(), "ids"),
]


def test_bad_requests_name_the_field(lookup: Lookup) -> None:
    for method, request, field in BAD:
        with pytest.raises(grpc.RpcError) as caught:
            getattr(lookup.stub, method)(request, timeout=60)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (field, error)
        trailers = dict(error.trailing_metadata())
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        info, violation = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        assert status.details[0].Unpack(info)
        assert status.details[1].Unpack(violation)
        assert info.reason == "INVALID_FIELD"
        assert [violated.field for violated in violation.field_violations] == [field]
        assert info.metadata["request_id"]
    assert lookup.stats().documents == 0
