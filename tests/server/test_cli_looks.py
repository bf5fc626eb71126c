"""`headstream attention` and `headstream lens`: what goes on inside."""

import json

import numpy as np
import pytest

from client_messages import tensor
from command_line import run
from headstream.v1 import internals_service_pb2 as internals_pb
from headstream.v1 import logits_service_pb2 as logits_pb
from headstream.v1 import tensor_pb2, types_pb2
from headstream.v1 import tokenizer_service_pb2 as tokenizer_pb


def look_start():
    table = types_pb2.TokenTable(
        ids=[2, 7, 9],
        surfaces=[b"<bos>", b"The", b" fish"],
        byte_starts=[0, 0, 3],
        byte_ends=[0, 3, 8],
        char_starts=[0, 0, 3],
        char_ends=[0, 3, 8],
        special=[True, False, False],
    )
    return internals_pb.TraceStart(tokens=table)


def with_attention(script):
    keys = np.array([[[0, 1], [0, 1], [1, 0]]], "<i4")
    chunk = internals_pb.AttentionChunk(
        layer=2,
        queries=[0, 1, 2],
        weights=tensor([[[1, 0], [0.75, 0.25], [0.5, 0.25]]]),
        keys=tensor_pb2.Tensor(
            dtype=tensor_pb2.DATA_TYPE_INT32, shape=keys.shape, data=keys.tobytes()
        ),
    )
    end = internals_pb.TraceEnd(usage=types_pb2.Usage(tensor_bytes=48))
    script.attention = lambda request, context: iter(
        [
            internals_pb.AttentionResponse(start=look_start()),
            internals_pb.AttentionResponse(chunk=chunk),
            internals_pb.AttentionResponse(end=end),
        ]
    )


def test_attention_shows_what_each_token_looks_at(script):
    with_attention(script)
    result = run("attention", "The fish", "--layer", "2", "--top-k", "2", "-a", script.address)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["0", '"<bos>"', "████████", '"<bos>"', "100.0%"] in lines
    assert lines[-1] == ["2", '"', 'fish"', "████", '"The"', "50.0%", '"<bos>"', "25.0%"]
    [request] = script.requests
    assert (list(request.layers), request.average_heads, request.top_k) == ([2], True, 2)


def test_attention_of_a_head_as_json_lines(script):
    with_attention(script)
    result = run("attention", "a", "-l", "2", "--head", "1", "--json", "-a", script.address)
    *_, last = (json.loads(line) for line in result.stdout.splitlines())
    assert last["token"] == " fish"
    assert last["looks_at"][0] == {"position": 1, "token": "The", "weight": 0.5}
    assert (list(script.requests[0].heads), script.requests[0].average_heads) == ([1], False)
    assert run("attention", "a").exit_code == 2, "a layer is needed"


def with_lens(script):
    def rows(request, context):
        yield internals_pb.LogitLensResponse(start=look_start())
        for layer in (0, 1):
            logits = logits_pb.Logits(
                values=tensor([np.log(0.5 + layer / 4), np.log(0.1)]), token_ids=[40 + layer, 9]
            )
            row = internals_pb.LogitLensRow(layer=layer, position=2, logits=logits)
            yield internals_pb.LogitLensResponse(row=row)
        end = internals_pb.TraceEnd(usage=types_pb2.Usage(tensor_bytes=16))
        yield internals_pb.LogitLensResponse(end=end)

    script.logit_lens = rows
    script.tokenize = lambda request, context: tokenizer_pb.TokenizeResponse(
        tokens=look_start().tokens
    )
    script.detokenize = lambda request, context: tokenizer_pb.DetokenizeResponse(
        text=f"t{request.ids[0]}"
    )


def test_the_lens_shows_the_likeliest_tokens_of_each_layer(script):
    with_lens(script)
    result = run("lens", "The fish", "--top-k", "2", "-a", script.address)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["layer", "behind", '"', 'fish"']
    assert lines[1] == ["embed", "████", '"t40"', "50.0%", '"t9"', "10.0%"]
    assert lines[2] == ["1", "██████", '"t41"', "75.0%", '"t9"', "10.0%"]
    [request] = [
        each for each in script.requests if isinstance(each, internals_pb.LogitLensRequest)
    ]
    assert (request.positions.start, request.positions.end) == (2, 3), "the last token"


def test_the_lens_as_json_lines(script):
    with_lens(script)
    result = run("lens", "The fish", "-p", "2", "--json", "-a", script.address)
    first, last = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["layer"], last["layer"]) == (0, 1)
    assert last["predicts"][0]["token"] == "t41"
    assert last["predicts"][0]["logprob"] == pytest.approx(np.log(0.75))
