"""The lookup service under fuzz: the closed table of codes, and nothing kept is lost or changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzed_calls import DEADLINE, Fuzzed, asked_beside
from fuzzed_server import no_fault_is_logged
from fuzzed_values import ENCODER
from headstream.v1 import lookup_service_pb2 as pb
from lookup_process import Lookup, running_lookup
from outcome import Table
from served_methods import LOOKUP
from server_process import running_server
from tiny_models import save_tiny
from tiny_tokenizers import word_piece_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

KEPT = {"kept": "The chicken crossed a cafe.", "kept too": "A cafe. The chicken."}
"""Documents of names that no fuzzed request has."""
ADD = "LookupService/AddDocuments"  # once more behind the deletions: there is something at the end


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_tiny("bert", tmp_path_factory.mktemp("encoder"))
    word_piece_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def test_every_method(encoder: Path, tmp_path: Path, table: Table, long: bool) -> None:
    share = 800 if long else 60
    log = tmp_path / "log"
    flags = ("--dtype", "float32")
    with running_server(encoder, *flags, name=ENCODER, stderr=tmp_path / "server") as server:
        with running_lookup(server.address, tmp_path / "store", stderr=log) as lookup:
            lookup.add(KEPT, words=True)
            expected = _found(lookup)
            fuzzed = Fuzzed(lookup.channel)
            with asked_beside(lambda: _found(lookup)) as equal:
                fuzzed.fuzz([*LOOKUP, ADD], share)
            assert lookup.process.poll() is None
            stats = lookup.stats()
        with running_lookup(server.address, tmp_path / "store") as lookup:  # it was killed
            assert lookup.stats().documents == stats.documents
            assert _found(lookup) == expected
    no_fault_is_logged(log)
    codes = ", ".join(f"{count:,} {code}" for code, count in fuzzed.codes.most_common())
    what = f"lookup: requests made and damaged ({codes}); {len(equal):,} good calls beside them"
    table.add(what, fuzzed.sent, fuzzed.sent + sum(equal), equal.count(False))
    assert fuzzed.longest < DEADLINE + 1
    assert equal
    assert all(equal)
    assert fuzzed.codes["OK"] > fuzzed.sent / 10, "nothing gets through"
    assert fuzzed.codes["INVALID_ARGUMENT"] > fuzzed.sent / 10
    assert stats.documents > len(KEPT), "nothing is kept"


def _found(lookup: Lookup) -> list[pb.Hit]:
    """Chunks and words of what is kept, by comparing with all."""
    text = KEPT["kept"]
    kept = pb.Filter(document_ids=KEPT)
    chunks = lookup.search(text, filter=kept, exact=True)
    words = lookup.search_word(text, "chicken", filter=kept, exact=True)
    assert {hit.document_id for hit in chunks} == {hit.document_id for hit in words} == {*KEPT}
    return [*chunks, *words]
