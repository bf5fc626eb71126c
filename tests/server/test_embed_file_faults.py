"""`headstream embed FILE -o OUTPUT` where the server has a fault at some lines."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from client_messages import stream_answer
from headstream.client import Client
from headstream.server.cli.embed_file import embed_file
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import model_service_pb2 as model_pb
from headstream.v1 import types_pb2
from scripted_server import Script, scripted_server

PRINT = types_pb2.ModelFingerprint(model="m", weights_sha256="a")
BUSY = pb.ItemError(code=8, message="too late", reason="DEADLINE_TOO_SHORT")
BROKEN = pb.ItemError(code=13, message="internal error", reason="INTERNAL")


@dataclass
class Server:
    """Each text has so many errors before its vector; what was asked for, call by call."""

    error: pb.ItemError
    faults: dict[str, int]
    seen: list[list[str]] = field(default_factory=list[list[str]])

    def answer(self, requests: Any, context: Any) -> Iterator[pb.EmbedStreamResponse]:
        texts: list[str] = []
        self.seen.append(texts)
        for request in requests:
            answers: list[pb.EmbedStreamAnswer] = []
            for item in request.items:
                text = item.item.input.text
                texts.append(text)
                if self.faults.get(text, 0):
                    self.faults[text] -= 1
                    failed = pb.EmbedResult(error=self.error)
                    answers.append(pb.EmbedStreamAnswer(id=item.id, result=failed))
                else:
                    answers.append(stream_answer(item))
            yield pb.EmbedStreamResponse(fingerprint=PRINT, answers=answers)


@contextmanager
def failing(error: pb.ItemError, **faults: int) -> Generator[tuple[Client, Server]]:
    model = model_pb.Model(name="m", fingerprint=PRINT)
    server = Server(error, faults)
    script = Script(embed_stream=server.answer)
    script.get_model = lambda request, context: model_pb.GetModelResponse(model=model)
    with scripted_server(script) as running:
        running.start()
        with Client(script.address) as client:
            yield client, server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("a\nbb\nccc\ndddd\n")
    return path


ALL = ["a", "bb", "ccc", "dddd"]


def test_lines_at_which_the_server_failed_are_tried_again(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once by the run itself, and then by the same command."""
    output = source.with_name("a.npy")
    with failing(BUSY, bb=2, ccc=2) as (client, server):
        with pytest.raises(ValueError, match=r"a fault at 2 lines.*: too late"):
            embed_file(client, source, output, "", {})
        assert "the same command goes on" in capsys.readouterr().err
        assert not output.exists()
        embed_file(client, source, output, "", {})
    # As it was still busy at the first, the second was not tried.
    assert server.seen == [ALL, ["bb"], ["bb", "ccc"], ["ccc"]]
    assert np.load(output).tolist() == [[1, 1], [2, 1], [3, 1], [4, 1]]


def test_a_line_at_which_the_server_breaks_twice_is_an_error(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run comes to an end; one at which it broke once has its vector."""
    output = source.with_name("a.npy")
    with failing(BROKEN, bb=99, ccc=1) as (client, server), pytest.raises(typer.Exit):
        embed_file(client, source, output, "", {})
    assert server.seen == [ALL, ["bb"], ["ccc"]]
    assert "1 of them have no vector" in capsys.readouterr().err
    rows = np.load(output)
    assert np.isnan(rows[1]).all()
    assert rows[[0, 2, 3]].tolist() == [[1, 1], [3, 1], [4, 1]]
    errors = source.with_name("a.npy.errors.jsonl").read_text().splitlines()
    expected = {"line": 1, "reason": "INTERNAL", "message": "internal error"}
    assert [json.loads(line) for line in errors] == [expected]
    assert not source.with_name("a.npy.part").exists()
