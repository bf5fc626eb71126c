"""`headstream embed`: of texts and of their tokens."""

import json

import numpy as np
import pytest

from client_messages import END_TOKENS, ROWS, token_events, vectors
from command_line import run
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import tensor_pb2


def test_embed_writes_an_array_and_shows_cosines(script, tmp_path):
    script.embed = lambda request, context: vectors([1, 0], [1, 1])
    path = tmp_path / "vectors.npy"
    result = run("embed", "a", "b", "-a", script.address, "-o", str(path))
    assert result.exit_code == 0, result.output
    assert "0.7071" in result.stdout
    assert np.load(path).tolist() == [[1, 0], [1, 1]]


def test_embed_leaves_what_is_not_said_to_the_model(script):
    script.embed = lambda request, context: vectors([1, 0])
    assert run("embed", "a", "-a", script.address).exit_code == 0
    assert script.requests[-1].options.pooling == embeddings_pb.POOLING_UNSPECIFIED
    assert script.requests[-1].options.WhichOneof("prompt") is None
    run("embed", "a", "-a", script.address, "--prompt-name", "query", "--pooling", "last")
    assert script.requests[-1].options.prompt_name == "query"
    assert script.requests[-1].options.pooling == embeddings_pb.POOLING_LAST


def test_embed_in_few_dimensions_and_bits(script, tmp_path):
    reply = vectors([1, 0], [1, 1])
    for result, codes, scale in zip(
        reply.results, (b"\x7f\x00", b"\x7f\x7f"), (0.5, 2), strict=True
    ):
        result.embedding.vectors.dtype = tensor_pb2.DATA_TYPE_INT8
        result.embedding.vectors.data = codes
        result.embedding.scales.append(scale)
    reply.results[1].embedding.truncated = True
    reply.results[1].embedding.num_tokens = 9
    script.embed = lambda request, context: reply
    path = tmp_path / "vectors.npy"
    flags = ("--dimensions", "2", "--dtype", "int8", "--truncate", "-o", str(path))
    shown = run("embed", "a", "b", "-a", script.address, *flags)
    assert "0.7071" in shown.stdout
    assert "text 1 was cut to 9 tokens" in shown.stderr
    sent = script.requests[0].options
    assert (sent.dimensions, sent.dtype, sent.truncate) == (2, 4, True)
    assert np.load(path).tolist() == [[127, 0], [127, 127]]
    lines = run("embed", "a", "b", "-a", script.address, *flags, "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": "a", "vector": [127, 0], "scale": 0.5},
        {"text": "b", "vector": [127, 127], "scale": 2, "truncated_to": 9},
    ]


def test_embed_writes_json_lines_of_texts_and_tokens(script):
    script.embed = lambda request, context: vectors([1, 0])
    texts = run("embed", "a", "-a", script.address, "--json")
    assert json.loads(texts.stdout) == {"text": "a", "vector": [1, 0]}
    script.embed_tokens = lambda request, context: iter([*token_events(ROWS), END_TOKENS])
    tokens = run("embed", "é", "-a", script.address, "--tokens", "--layer", "0", "--json")
    first = json.loads(tokens.stdout.splitlines()[0])
    assert first == {
        "token": "<bos>",
        "token_id": 1,
        "offsets": [0, 0],
        "vectors": [[1, 2], [7, 8]],
    }


def test_embed_shows_tokens(script):
    script.embed_tokens = lambda request, context: iter([*token_events(ROWS), END_TOKENS])
    result = run("embed", "é", "-a", script.address, "--tokens")
    assert "<bos>" in result.stdout
    assert list(script.requests[0].layers.layers) == [-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tokens", "a", "b"),
        ("a", "--layer", "0", "--layer", "1"),
        ("a", "--prompt", "b", "--prompt-name", "c"),
        ("--tokens", "a", "--prompt", "b"),
        ("--tokens", "a", "--dimensions", "8"),
        ("a", "--dimensions", "0"),
        ("a", "--dtype", "int4"),
    ],
)
def test_embed_refuses_what_does_not_go_together(arguments):
    assert run("embed", *arguments).exit_code == 2
