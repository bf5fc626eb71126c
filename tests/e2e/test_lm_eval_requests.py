"""Single requests of lm-evaluation-harness over a real server, beside its own `hf` model."""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest

from evaluated_model import CONTEXT, WORDS, words
from server_process import Server

pytest.importorskip("lm_eval", reason="needs the extra [eval]")


def instances(kind: Any, requests: list[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, arguments, index) for index, arguments in enumerate(requests)]


OPTIONS = [
    {},
    {"max_length": 40},
    {"add_bos_token": False},
    {"prefix_token_id": 7},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_odd_requests_equal_hf(
    short_model: Path, short_server: Server, options: dict[str, Any]
) -> None:
    """Spaces at seams, no context, marks spelled out, and everything around the context's end."""
    from lm_eval.models import huggingface

    from headstream.client.lm_eval import HeadstreamLM

    hf: Any = huggingface.HFLM
    theirs = hf(str(short_model), dtype="float32", device="cpu", **options)
    ours = HeadstreamLM(short_server.address, **options)
    rng = random.Random(9)
    pairs = [
        ("", "The chicken"),
        ("", " road"),
        ("", "<bos>So long"),
        ("", "<eos>So long"),
        ("So long  ", " and thanks"),
        ("So long\n", "fish"),
        ("<bos>So long", " and"),
        ("<eos>So long", " and"),
        ("naïve caf", "és, 日本語"),
        ("So lon", "g and thanks for all the fish"),
        *((words(rng, count), " " + words(rng, 1 + count % 7)) for count in range(1, 60)),
        (words(rng, 90), " " + words(rng, 20)),
    ]
    requests = instances("loglikelihood", pairs)
    answers = (model.loglikelihood(requests, disable_tqdm=True) for model in (theirs, ours))
    for pair, (logprob, greedy), (our_logprob, our_greedy) in zip(pairs, *answers, strict=True):
        assert our_logprob == pytest.approx(logprob, abs=1e-4), pair
        assert our_greedy is greedy, pair

    pages = [("",), ("a",), *((words(rng, count),) for count in range(20, 60))]
    requests = instances("loglikelihood_rolling", pages)
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    found = ours.loglikelihood_rolling(requests, disable_tqdm=True)
    # `hf` adds up a window in float32, which leaves six digits of the sum.
    assert found == pytest.approx(expected, abs=1e-4, rel=1e-6)

    many = [f"no {index}" for index in range(20)]
    settings: list[dict[str, Any]] = [
        {"until": [*many, "x" * 300, "e", "t"]},  # more than a server watches for
        {"until": "i", "max_new_tokens": 20, "num_beams": 1},
        {"do_sample": False, "repetition_penalty": 1.5, "max_gen_toks": 16},
    ]
    prompts = [
        (words(rng, count), {"max_gen_toks": 12} | each) for count in (1, 30) for each in settings
    ]
    requests = instances("generate_until", prompts)
    expected = theirs.generate_until(requests, disable_tqdm=True)
    assert ours.generate_until(requests, disable_tqdm=True) == expected
    assert len(set(expected)) > 3


@pytest.mark.slow
def test_gemma_equals_hf(gemma: Path, gemma_server: Server) -> None:
    """The real tokenizer and weights. `hf`'s own float32 log-softmax of 262,144 logits is 1e-5 off
    in every row, so it computes that step in float64 here."""
    from lm_eval.models import huggingface

    from headstream.client.lm_eval import HeadstreamLM

    options = {"dtype": "float32", "device": "cpu", "max_length": 128, "softmax_dtype": "float64"}
    hf: Any = huggingface.HFLM
    theirs, ours = hf(str(gemma), **options), HeadstreamLM(gemma_server.address, max_length=128)
    page = (__doc__ or "") + json.dumps(OPTIONS) + " ".join(WORDS * 8)
    pairs = [
        ("The capital of France is", " Paris"),
        ("Question: 2 + 2 = ?\nAnswer: ", "4"),
        ("", "Der schnelle braune Fuchs"),
        ("東京は", "日本の首都"),
        (page, "  and so on"),
    ]
    requests = instances("loglikelihood", pairs)
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    found = ours.loglikelihood(requests, disable_tqdm=True)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [each for each, _ in found] == pytest.approx([each for each, _ in expected], abs=1e-4)

    requests = instances("loglikelihood_rolling", [(page,)])
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests, disable_tqdm=True) == pytest.approx(
        expected, rel=1e-6
    )

    asked = {"until": ["\n"], "max_gen_toks": 16}
    requests = instances("generate_until", [(context, asked) for context, _ in pairs[:2]])
    expected = theirs.generate_until(requests, disable_tqdm=True)
    assert ours.generate_until(requests, disable_tqdm=True) == expected


def test_length_matters(short_server: Server) -> None:
    """Negative control: a context cut shorter gives other numbers."""
    from headstream.client.lm_eval import HeadstreamLM

    [request] = instances("loglikelihood", [(words(random.Random(1), 40), " fish")])
    [[whole, _]], [[cut, _]] = (
        HeadstreamLM(short_server.address, max_length=length).loglikelihood(
            [request], disable_tqdm=True
        )
        for length in (CONTEXT, 12)
    )
    assert abs(whole - cut) > 1e-2


def test_sampling_follows_the_seed(short_server: Server) -> None:
    from headstream.client.lm_eval import HeadstreamLM

    model = HeadstreamLM(short_server.address)
    prompt = (
        "So long and",
        {"do_sample": True, "temperature": 4.0, "top_k": 50, "max_gen_toks": 8},
    )
    requests = [(prompt[0], prompt[1] | {"seed": seed}) for seed in (1, 2, 1)]
    one, other, again = model.generate_until(instances("generate_until", requests))
    assert one == again != other


def test_what_does_not_fit_is_refused_by_name(short_server: Server) -> None:
    from headstream.client import NotFound
    from headstream.client.lm_eval import HeadstreamLM

    with pytest.raises(ValueError, match=f"max_length 97: the model takes 1 to {CONTEXT}"):
        HeadstreamLM(short_server.address, max_length=97)
    with pytest.raises(NotFound, match="other"):
        HeadstreamLM(short_server.address, model="other")
    model = HeadstreamLM(short_server.address, concurrency=2)
    for asked, message in (
        ({"num_beams": 4}, "num_beams=4 is not supported"),
        ({"max_gen_toks": CONTEXT}, f"max_gen_toks {CONTEXT}: the model takes {CONTEXT}"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate_until(instances("generate_until", [("So long", asked)]))
    with pytest.raises(ValueError, match="a continuation of 0 tokens"):
        model.loglikelihood(instances("loglikelihood", [("So lon", "g")]))


def test_the_entry_point_names_the_class() -> None:
    """By the name it is registered under, or releases that read it would see two models."""
    from headstream.client.lm_eval import HeadstreamLM

    document = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert document["project"]["entry-points"]["lm_eval.models"] == {
        "headstream": f"{HeadstreamLM.__module__}:{HeadstreamLM.__qualname__}"
    }
