"""The views, rendered to plain text of a fixed width."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from headstream.client import (
    Fingerprint,
    Limits,
    ModelInfo,
    ModelSizes,
    Timings,
    TokenEmbeddings,
    Usage,
)
from headstream.server.cli.views import demo, generation, server, text, vectors
from headstream.server.cli.views.generation import Candidate


def render(renderable, *, width=80, color=False):
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
    )
    console.print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


GEMMA = ModelInfo(
    name="gemma",
    state="serving",
    family="gemma3",
    architecture="Gemma3ForCausalLM",
    sizes=ModelSizes(
        layers=18,
        dimensions=640,
        heads=4,
        kv_heads=1,
        head_dimensions=256,
        vocabulary=262_144,
        parameters=268_098_176,
    ),
    limits=Limits(
        max_model_tokens=32_768,
        max_text_bytes=1,
        max_inputs=64,
        max_new_tokens=1,
        max_top_k=1,
        max_reply_bytes=1,
        max_queued_requests=1,
        max_queued_tokens=1,
    ),
    capabilities={"headstream.v1.LogitsService/Generate": True},
    eos_token_ids=[1],
    fingerprint=Fingerprint(model="gemma", dtype="bfloat16"),
)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" fish", '" fish"'),
        ("\n", r'"\n"'),
        ('"', r'"\""'),
        ("é", '"é"'),
        ("a" * 40, '"' + "a" * 13 + "…" + '"'),
    ],
)
def test_tokens_show_their_spaces_and_line_ends(token, shown):
    assert text.visible(token) == shown
    assert len(shown) <= 16


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "    "), (1.0, "████"), (0.5, "██  "), (0.03125, "▏   "), (2.0, "████"), (-1.0, "    ")],
)
def test_bars_are_filled_in_eighths_of_a_column(share, shown):
    assert text.bar(share, 4).plain == shown


def test_numbers_are_short_and_honest():
    assert [text.percent(share) for share in (0.4215, 1.0, 0.0001, 0.0)] == [
        "42.1%",
        "100.0%",
        "<0.1%",
        "0.0%",
    ]
    assert [text.count(number) for number in (999, 50_257, 268_098_176, 1_500_000_000)] == [
        "999",
        "50K",
        "268M",
        "1.5B",
    ]
    assert text.signed(-0.00001) == " 0.0000"
    assert text.signed(-0.5) == "-0.5000"


def test_a_step_lists_its_candidates_with_the_chosen_one_marked():
    shown = render(
        generation.step(
            3, [Candidate(7, " fish", 0.5, chosen=True), Candidate(8, " the", 0.25, chosen=False)]
        )
    )
    assert shown.splitlines() == [
        '   3 > " fish"            ██████████████                50.0%',
        '       " the"             ███████                       25.0%',
    ]


def test_a_continuation_is_told_apart_from_its_prompt_by_colour_alone():
    whole = generation.prompt_and_text("So long", " and thanks")
    assert render(whole) == "So long and thanks"
    assert "\x1b[" in render(whole, color=True)


def test_the_last_line_tells_how_much_and_how_fast():
    line = generation.summary(
        Usage(input_tokens=8, output_tokens=20),
        Timings(compute_ns=2_000_000_000, first_output_ns=150_000_000),
        "length",
    )
    expected = "8 tokens in, 20 out, 10.0 tokens/s, first after 150 ms, ended by length"
    assert render(line) == expected


def token_embeddings():
    return TokenEmbeddings(
        tokens=["<bos>", "The", " cat"],
        surfaces=[b"<bos>", b"The", b" cat"],
        token_ids=[2, 818, 5],
        offsets=[(0, 0), (0, 3), (3, 7)],
        byte_offsets=[(0, 0), (0, 3), (3, 7)],
        special=[True, False, False],
        layers=[0, -1],
        vectors=np.array([[[1, 0], [1, 0], [1, 0]], [[0, 2], [3, 4], [0, 0]]], dtype=np.float32),
        usage=Usage(),
        timings=Timings(),
        fingerprint=Fingerprint(),
        request_id="",
    )


def test_tokens_stand_beside_their_offsets_and_norms():
    lines = render(vectors.tokens(token_embeddings())).splitlines()
    assert lines[0].split() == ["#", "token", "id", "chars", "|x|", "embed", "|x|", "final"]
    assert lines[1].split() == ["0", '"<bos>"', "2", "0..0", "1.00", "2.00", "████████"]
    assert lines[2].split() == ["1", '"The"', "818", "0..3", "1.00", "5.00", "█" * 20]
    assert lines[3].split() == ["2", '"', 'cat"', "5", "3..7", "1.00", "0.00"]


def test_similarities_are_cosines_of_every_pair():
    lines = render(vectors.similarities(["a", "b"], np.array([[1.0, 0.0], [1.0, 1.0]])))
    assert [line.split()[1:] for line in lines.splitlines()[1:]] == [
        ["a", "1.0000", "0.7071"],
        ["b", "0.7071", "1.0000"],
    ]


def test_cosine_of_a_zero_vector_is_zero():
    assert vectors.cosine(np.zeros(3), np.ones(3)) == 0.0


def test_layers_have_names_at_both_ends():
    table = vectors.cosines_by_layer([0, 1, -1], {"it": [1.0, 0.5, 0.0]})
    lines = render(table).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "embed", "1", "final"]
    assert lines[1].split()[1:] == ["1.0000", "█" * 12]
    assert lines[2].split()[1:] == ["0.5000", "█" * 6]


def test_the_ready_panel_says_where_what_and_what_to_type():
    shown = render(server.ready("127.0.0.1:6000", "127.0.0.1:9090", [GEMMA], tls=False), width=100)
    assert "Headstream is ready" in shown
    assert "gemma  268M parameters, 18 layers, d 640, bfloat16, context 32768" in shown
    assert "headstream generate -a 127.0.0.1:6000" in shown
    encoder = replace(GEMMA, capabilities={})
    other = render(server.ready("127.0.0.1:50051", "127.0.0.1:1", [encoder], tls=False), width=100)
    assert 'headstream embed "So long"' in other
    usual = render(server.ready("127.0.0.1:50051", "127.0.0.1:9090", [], tls=True), width=100)
    assert 'headstream generate "So long' in usual
    assert "127.0.0.1:50051 (TLS)" in usual
    assert "explorer" not in usual
    page = render(server.ready("a:1", "127.0.0.1:9090", [], tls=False, explorer=True), width=100)
    assert "http://127.0.0.1:9090/explorer/" in page


def test_without_a_terminal_readiness_is_one_line():
    line = server.ready_line("127.0.0.1:6000", "127.0.0.1:9090", [GEMMA])
    assert line == "ready: gRPC 127.0.0.1:6000, admin http://127.0.0.1:9090, serving gemma"
    page = "ready: gRPC a:1, admin http://a:2, explorer http://a:2/explorer/"
    assert server.ready_line("a:1", "a:2", [], explorer=True) == page
    assert server.ready_line("a:1", "a:2", []) == "ready: gRPC a:1, admin http://a:2"


def test_models_fit_an_ordinary_terminal():
    lines = render(server.models([GEMMA])).splitlines()
    assert lines[1].split() == [
        *("gemma", "serving", "gemma3", "18", "640", "4/1", "262144", "268M", "32768", "bfloat16")
    ]
    assert "…" not in "".join(lines)


def test_stages_have_words_and_unknown_ones_keep_their_name():
    assert server.stage("weights") == "Loading the weights"
    assert server.stage("warming") == "Warming"


def test_the_demo_explains_what_its_numbers_show():
    assert "cannot look ahead" in render(demo.explanation([1.0, 1.0])).replace("\n", " ")
    assert "both directions" in render(demo.explanation([1.0, 0.7])).replace("\n", " ")
    shown = render(demo.what_next("here/headstream"))
    assert "make serve" in shown
    assert "here/headstream generate" in shown
    assert "from headstream.client import Client" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "cleanly" in render(demo.stopped(0))
    assert "exit code 9" in render(demo.stopped(9))
    assert "268M parameters" in render(demo.served(GEMMA, "a:1"))
