"""The commands: what they print, how they fail, and how quick they are to start."""

import json
import subprocess
import sys
from itertools import chain

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from client_messages import (
    END,
    END_TOKENS,
    ROWS,
    SCORE_END,
    START,
    continuations,
    ends,
    score_events,
    tensor,
    token_events,
    vectors,
)
from headstream.server.cli.app import app
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import internals_service_pb2 as internals_pb
from headstream.v1 import logits_service_pb2 as logits_pb
from headstream.v1 import model_service_pb2 as model_pb
from headstream.v1 import tensor_pb2, types_pb2
from headstream.v1 import tokenizer_service_pb2 as tokenizer_pb
from scripted_server import Script, scripted_server


@pytest.fixture
def script():
    script = Script()
    with scripted_server(script) as server:
        server.start()
        yield script


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def modules_after(code):
    probe = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_loads_no_heavy_library():
    heavy = {"torch", "transformers", "grpc", "numpy", "pydantic", "google.protobuf"}
    assert not heavy & modules_after("import headstream.server.cli")


def test_the_front_of_serve_loads_no_torch():
    code = "import headstream.server.front, headstream.server.cli.watch"
    assert "torch" not in modules_after(code)


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "headstream.server.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(
        name in done.stdout for name in ("serve", "generate", "embed", "score", "models", "demo")
    )


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


def test_models_as_a_table_and_as_json(script):
    reply = model_pb.ListModelsResponse(models=[model_pb.Model(name="tiny")])
    script.list_models = lambda request, context: reply
    assert "tiny" in run("models", "-a", script.address).stdout
    (line,) = run("models", "-a", script.address, "--json").stdout.splitlines()
    assert json.loads(line)["name"] == "tiny"


def test_an_error_of_the_server_is_one_line_and_exit_code_1(script):
    def refuse(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such model")

    script.embed = refuse
    result = run("embed", "a", "-a", script.address)
    assert result.exit_code == 1
    assert result.stderr == "error: NOT_FOUND: no such model\n"


def test_a_wrong_setting_of_serve_is_named_with_exit_code_2():
    result = run("serve", "--port", "0", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: host: 0.0.0.0 can be reached by other machines")


def test_the_flags_of_serve_are_the_settings():
    result = run("serve", "--help")
    assert result.exit_code == 0
    assert "--max-num-batched-tokens" in result.stdout
    assert "--config FILE" in result.stdout


def test_the_demo_says_why_its_server_could_not_start(tmp_path):
    result = run("demo", "--model", str(tmp_path / "missing.gguf"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


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
