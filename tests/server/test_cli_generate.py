"""`headstream generate`: the text, the likeliest tokens, lines of JSON."""

import json
from itertools import chain

import numpy as np
import pytest

from client_messages import END, START, continuations, ends, tensor
from command_line import run
from headstream.v1 import logits_service_pb2 as logits_pb
from headstream.v1 import tokenizer_service_pb2 as tokenizer_pb


def with_logits(script):
    row = logits_pb.Logits(values=tensor(np.log([0.5, 0.25])), token_ids=[7, 8])
    steps = [
        logits_pb.GenerateStep(index=0, token_id=7, text=" a", logprob=np.log(0.5), logits=row),
        logits_pb.GenerateStep(index=1, token_id=9, text=" c", logprob=np.log(0.1), logits=row),
    ]
    events = [logits_pb.GenerateResponse(step=step) for step in steps]
    script.generate = lambda request, context: iter([START, *events, END])
    script.detokenize = lambda request, context: tokenizer_pb.DetokenizeResponse(
        text={7: " a", 8: " b", 9: " c"}[request.ids[0]]
    )


def test_generate_writes_nothing_but_the_text_where_there_is_no_terminal(script):
    with_logits(script)
    script.generate = without_logits(script.generate)
    result = run("generate", "So", "-a", script.address, "-n", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout == " a c\n"
    assert "ended by stop" in result.stderr
    assert script.requests[0].stop.max_new_tokens == 2


def without_logits(handler):
    def stripped(request, context):
        for event in handler(request, context):
            if event.HasField("step"):
                event.step.ClearField("logits")
            yield event

    return stripped


def test_generate_shows_the_likeliest_tokens_and_the_one_drawn_from_below_them(script):
    with_logits(script)
    result = run("generate", "So", "-a", script.address, "--logits", "2")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["0", ">", '"', 'a"', "█" * 14, "50.0%"] in lines
    assert ['"', 'b"', "█" * 7, "25.0%"] in lines
    assert any(line[:1] == [">"] and line[-1] == "10.0%" for line in lines)
    assert ["So", "a", "c"] in lines


def test_generate_writes_json_lines(script):
    with_logits(script)
    result = run("generate", "So", "-a", script.address, "--logits", "2", "--json")
    first, second, whole = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["token_id"], first["text"]) == (7, " a")
    assert [item["text"] for item in first["top"]] == [" a", " b"]
    assert second["top"][-1] == {
        "token_id": 9,
        "text": " c",
        "probability": pytest.approx(0.1),
    }
    assert (whole["text"], whole["finish_reason"]) == (" a c", "stop")


def test_generate_writes_several_continuations_one_by_one(script):
    script.generate = lambda request, context: chain(continuations(2, 1), ends(1, 0))
    result = run("generate", "So", "-a", script.address, "--n", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["0 (seed 3)", "So 0 1", "1 (seed 4)", "So 0"]
    assert "ended by stop" in result.stderr
    assert script.requests[0].sampling.n == 2
    result = run("generate", "So", "-a", script.address, "--n", "2", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["continuation"] for line in lines] == [0, 1, 0, 0, 1]
    assert [(line["text"], line["seed"]) for line in lines[3:]] == [(" 0 1", 3), (" 0", 4)]


def test_generate_says_it_to_a_chat_model_and_keeps_a_schema(script, tmp_path):
    with_logits(script)
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    arguments = ("--chat", "--system", "Be brief.", "--json-schema", str(schema), "--json")
    assert run("generate", "So", "-a", script.address, *arguments).exit_code == 0
    (request,) = [made for made in script.requests if hasattr(made, "prompt")]
    chat = request.prompt.chat
    assert [(message.role, message.content) for message in chat.messages] == [
        ("system", "Be brief."),
        ("user", "So"),
    ]
    assert chat.add_generation_prompt
    assert request.sampling.constraint.json_schema == '{"type": "object"}'
