"""The demo, with a scripted server in the place of the real one that it starts."""

import io

import numpy as np
import pytest
from rich.console import Console

from client_messages import tensor
from headstream.client import Client
from headstream.server.cli import demo
from headstream.server.cli.child import ServerFailedError
from headstream.v1 import embeddings_service_pb2 as pb
from headstream.v1 import model_service_pb2 as model_pb
from headstream.v1 import types_pb2
from scripted_server import Script, scripted_server


def causal(request, context):
    """A toy that reads from left to right: a word's vector counts the letters up to it."""
    words = request.input.text.split()
    seen = np.cumsum([[len(word), word.count("o")] for word in words], axis=0)  # [n, 2]
    n = len(words)
    table = types_pb2.TokenTable(
        ids=range(n),
        surfaces=[f" {word}".encode() for word in words],
        byte_starts=range(n),
        byte_ends=range(n),
        char_starts=range(n),
        char_ends=range(n),
        special=[False] * n,
    )
    layers = list(request.layers.layers)
    yield pb.EmbedTokensResponse(
        start=pb.EmbedTokensStart(tokens=table, layers=layers, dimensions=2)
    )
    for index in range(len(layers)):
        chunk = pb.EmbedTokensChunk(layer_index=index, rows=tensor(seen + index))
        yield pb.EmbedTokensResponse(chunk=chunk)
    yield pb.EmbedTokensResponse(end=pb.EmbedTokensEnd())


@pytest.fixture
def client():
    script = Script(embed_tokens=causal)
    model = model_pb.Model(sizes=model_pb.ModelSizes(layers=1))
    script.get_model = lambda request, context: model_pb.GetModelResponse(model=model)
    with scripted_server(script) as server:
        server.start()
        with Client(script.address) as client:
            yield client


def test_it_has_one_vector_where_nothing_before_it_differs(client):
    stream = io.StringIO()
    demo.show_vectors(Console(file=stream, width=100, highlight=False), client)
    rows = [line.split() for line in stream.getvalue().splitlines()]
    by_layer = [row[1::2] for row in rows if row and row[0] in {"embed", "1", "final"}]
    assert len(by_layer) == 3
    assert all(row[0] == "1.0000" for row in by_layer)
    assert all(row[1] != "1.0000" for row in by_layer)
    assert "cannot look ahead" in " ".join(stream.getvalue().split())


def test_a_word_is_found_with_its_space_and_missed_in_words(client):
    tokens = client.embed_tokens("so it is", layers=[0])
    assert demo.position(tokens, "it") == 1
    with pytest.raises(ServerFailedError, match="no token for 'he'"):
        demo.position(tokens, "he")


def test_the_command_is_named_as_the_shell_finds_it(tmp_path, monkeypatch):
    """Not found by name in a fresh checkout: by its path from where the reader stands."""
    script = tmp_path / ".venv" / "bin" / "headstream"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script.with_name("python")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert demo.command() == ".venv/bin/headstream"
    monkeypatch.setenv("PATH", str(script.parent))
    assert demo.command() == "headstream"
    monkeypatch.chdir("/")
    monkeypatch.setenv("PATH", "/nowhere")
    assert demo.command() in {str(script), str(script).lstrip("/")}
