"""`headstream score`: a table of tokens, or lines of JSON."""

import json

import pytest

from client_messages import SCORE_END, score_events
from command_line import run
from headstream.v1 import tokenizer_service_pb2 as tokenizer_pb
from headstream.v1 import types_pb2


def with_scores(script):
    script.score = lambda request, context: iter([*score_events([2, 7, 9]), SCORE_END])
    table = types_pb2.TokenTable(
        ids=[2, 7, 9],
        surfaces=[b"<bos>", b"The", b" fish"],
        char_starts=[0, 0, 3],
        char_ends=[0, 3, 8],
    )
    script.tokenize = lambda request, context: tokenizer_pb.TokenizeResponse(tokens=table)


def test_score_shows_each_token_and_the_totals(script):
    with_scores(script)
    result = run("score", "The fish", "-a", script.address, "--window-stride", "9")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["0", '"<bos>"', "2"] in lines
    assert ["1", '"The"', "7", "-1.0000", "1", "0.500", "36.8%", "████▍"] in lines
    assert result.stderr == "3 tokens, log-probability -3.5000, perplexity 7.2500\n"
    assert script.requests[0].window_stride == 9


def test_score_of_a_file_as_json_lines(script, tmp_path):
    with_scores(script)
    path = tmp_path / "text"
    path.write_text("The fish\n")
    result = run("score", "--file", str(path), "-a", script.address, "--json")
    first, _, whole = (json.loads(line) for line in result.stdout.splitlines())
    assert first == {"token": "The", "token_id": 7, "logprob": -1, "rank": 1, "entropy": 0.5}
    assert (whole["perplexity"], whole["total_logprob"], whole["tokens"]) == (7.25, -3.5, 3)
    assert script.requests[0].inputs[0].text == "The fish\n"


@pytest.mark.parametrize("arguments", [(), ("a", "--file", "b")])
def test_score_takes_a_text_or_a_file(arguments):
    assert run("score", *arguments).exit_code == 2
