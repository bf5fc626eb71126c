"""The real lookup service as a process of its own, beside a real Headstream server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import lookup_service_pb2 as pb
from headstream.v1 import lookup_service_pb2_grpc

CHAR = embeddings_pb.OFFSET_UNIT_CHAR


@dataclass
class Lookup:
    """A running service and a channel to it."""

    process: subprocess.Popen[str]
    address: str
    channel: grpc.Channel
    ids: set[str] = field(default_factory=set[str])  # of the documents added

    @property
    def stub(self) -> Any:
        return lookup_service_pb2_grpc.LookupServiceStub(self.channel)

    def add(
        self, texts: Mapping[str, str], *, words: bool = False, **metadata: str
    ) -> pb.AddDocumentsResponse:
        self.ids |= texts.keys()
        documents = [pb.Document(id=i, text=text, metadata=metadata) for i, text in texts.items()]
        request = pb.AddDocumentsRequest(documents=documents, words=words)
        reply: pb.AddDocumentsResponse = self.stub.AddDocuments(request, timeout=60)
        return reply

    def search(self, text: str = "", **fields: Any) -> list[pb.Hit]:
        fields |= {"text": text} if text else {}
        request = pb.SearchRequest(**fields)
        return list(self.stub.Search(request, timeout=60).hits)

    def search_word(
        self, text: str, word: str, *, same: bool = False, **fields: Any
    ) -> list[pb.Hit]:
        start = text.index(word)
        span = embeddings_pb.Span(start=start, end=start + len(word))
        query = pb.WordInContext(text=text, span=span, same_word=same)
        return self.search(word=query, offset_unit=CHAR, **fields)

    def delete(self, *ids: str) -> int:
        request = pb.DeleteDocumentsRequest(ids=ids)
        reply: pb.DeleteDocumentsResponse = self.stub.DeleteDocuments(request, timeout=60)
        return reply.deleted

    def stats(self) -> pb.GetStatsResponse:
        reply: pb.GetStatsResponse = self.stub.GetStats(pb.GetStatsRequest(), timeout=60)
        return reply


def lookup_command(server: str, store: Path | str, *flags: str) -> list[str]:
    command = [sys.executable, "-m", "headstream.server.cli", "lookup", "serve", "--events"]
    return [*command, "--address", server, "--store", str(store), "--port", "0", *flags]


@contextmanager
def running_lookup(
    server: str, store: Path | str, *flags: str, stderr: Path | None = None
) -> Generator[Lookup]:
    """Ends by kill -9, always: nothing in the store may need a gentle end.

    ``stderr``: a file for the log; None: ours.
    """
    command = lookup_command(server, store, *flags)
    with stderr.open("w") if stderr is not None else nullcontext() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the service did not start"
        address = json.loads(line)["address"]
        with grpc.insecure_channel(address) as channel:
            yield Lookup(process, address, channel)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
