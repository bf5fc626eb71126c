"""lm-evaluation-harness over a real server, beside its own `hf` model on the same checkpoint."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
import tomllib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tiny_models
import tiny_tokenizers
from server_process import Server, running_server

pytest.importorskip("lm_eval", reason="needs the extra [eval]")

CONTEXT = 96
TEXT = "So long and thanks for all the fish the chicken did not cross road because it was too"
WORDS = TEXT.split()
# The queue is shorter than what a client sends at once, and texts may be longer than the context.
FLAGS = (
    "--dtype=float32",
    "--max-queued-requests=4",
    "--retry-after=0.05",
    "--max-text-bytes=9999",
)
NEW_TOKENS = 12


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


@pytest.fixture(scope="module", params=["with a beginning mark", "without"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a short context, and a tokenizer that adds a mark, or none."""
    directory = tmp_path_factory.mktemp("checkpoint")
    tokenizer = tiny_tokenizers.byte_level_tokenizer()
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    if request.param == "without":
        tokenizer.post_processor = None
    else:
        names["bos_token"] = "<bos>"
    tiny_models.save_tiny("gemma3", directory, vocab_size=420, max_position_embeddings=CONTEXT)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(names))
    return directory


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Generator[Server]:
    """Of that checkpoint."""
    with running_server(checkpoint, *FLAGS) as running:
        yield running


@pytest.fixture(scope="module")
def greedy(checkpoint: Path) -> Any:
    """Text -> the text that transformers' greedy decoding puts behind it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(checkpoint, dtype=torch.float32)

    def run(text: str, count: int) -> str:
        ids = tokenizer(text, return_tensors="pt").input_ids[:, count - CONTEXT :]
        whole = model.generate(ids, max_new_tokens=count, do_sample=False, pad_token_id=1)
        return str(tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))

    return run


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, greedy: Any) -> Path:
    """A folder with a task of each kind, as YAML over lines of JSON."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = random.Random(5)
    contexts = [words(rng, count) for count in (2, 5, 9, 20, 40, 90)]
    assert len(contexts[-1]) > 4 * CONTEXT
    # The second choice is often what the model would say, the others are longer or shorter.
    choices = [
        {"text": text, "choices": [" cross", greedy(text, 2), " too tired"], "label": index % 3}
        for index, text in enumerate(contexts)
    ]
    texts = [{"page": words(rng, count)} for count in (1, 12, 60, 170)]
    questions = [{"text": text, "answer": greedy(text, NEW_TOKENS)} for text in contexts[:4]]
    questions += [{"text": contexts[-1], "answer": "no"}]
    write_task(
        folder,
        "choices",
        choices,
        output_type="multiple_choice",
        doc_to_text="{{text}}",
        doc_to_choice="{{choices}}",
        doc_to_target="{{label}}",
        target_delimiter="",
        metrics=["acc", "acc_norm"],
    )
    write_task(
        folder,
        "pages",
        texts,
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{page}}",
        metrics=["word_perplexity", "byte_perplexity", "bits_per_byte"],
    )
    for name, until in (("whole", []), ("cut", ["e", "\n\n"])):
        write_task(
            folder,
            name,
            questions,
            output_type="generate_until",
            doc_to_text="{{text}}",
            doc_to_target="{{answer}}",
            generation_kwargs={"until": until, "max_gen_toks": NEW_TOKENS, "do_sample": False},
            metrics=["exact_match"],
        )
    return folder


def write_task(
    folder: Path, name: str, docs: list[dict[str, Any]], *, metrics: list[str], **config: Any
) -> None:
    """JSON is YAML too."""
    lines = folder / f"{name}.jsonl"
    lines.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    document = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(lines), "cache_dir": str(folder / "cache")},
        "test_split": "train",
        "metric_list": [{"metric": metric} for metric in metrics],
        **config,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def both(checkpoint: Path, server: Server, tasks: Path) -> tuple[Any, Any]:
    """The results of `hf` and of `headstream` on all tasks."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    importlib.import_module("headstream.client.lm_eval")  # tells lm_eval of the model
    evaluate: Any = simple_evaluate

    def run(model: str, **arguments: Any) -> Any:
        return evaluate(
            model=model,
            model_args=arguments,
            tasks=["choices", "pages", "whole", "cut"],
            device="cpu",
            batch_size=1,
            bootstrap_iters=0,
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)  # it counts downloads otherwise
        theirs = run("hf", pretrained=str(checkpoint), dtype="float32")
        return theirs, run("headstream", target=server.address)


def responses(results: Any, task: str) -> list[Any]:
    """What the model answered, document by document."""
    return [sample["resps"] for sample in results["samples"][task]]


def test_choices_equal_hf(both: tuple[Any, Any]) -> None:
    theirs, ours = both
    flags = set()
    for expected, found in zip(
        responses(theirs, "choices"), responses(ours, "choices"), strict=True
    ):
        for [(logprob, greedy)], [(our_logprob, our_greedy)] in zip(expected, found, strict=True):
            assert our_logprob == pytest.approx(logprob, abs=1e-4)
            assert our_greedy is greedy
            flags.add(greedy)
    assert flags == {True, False}, "the choices try both"
    assert theirs["results"]["choices"] == ours["results"]["choices"]
    assert 0 < ours["results"]["choices"]["acc,none"] < 1


def test_perplexity_equals_hf(both: tuple[Any, Any]) -> None:
    theirs, ours = both
    for [[expected]], [[found]] in zip(
        responses(theirs, "pages"), responses(ours, "pages"), strict=True
    ):
        assert found == pytest.approx(expected, abs=1e-4, rel=1e-6)
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        expected, found = (results["results"]["pages"][f"{name},none"] for results in both)
        assert found == pytest.approx(expected, rel=1e-5)


def test_continuations_equal_hf(both: tuple[Any, Any]) -> None:
    theirs, ours = both
    for task in ("whole", "cut"):
        assert responses(ours, task) == responses(theirs, task)
        assert ours["results"][task] == theirs["results"][task]
    assert ours["results"]["whole"]["exact_match,none"] == pytest.approx(4 / 5)
    assert responses(ours, "whole") != responses(ours, "cut")


def test_results_say_which_numbers_they_are(both: tuple[Any, Any], server: Server) -> None:
    from headstream.client import Client

    with Client(server.address) as client:
        fingerprint = client.model().fingerprint
    config = both[1]["config"]
    assert config["model_sha"] == fingerprint.weights_sha256
    assert config["model_dtype"] == "float32"
    assert config["max_length"] == CONTEXT


def test_a_busy_server_is_asked_again(both: tuple[Any, Any], server: Server) -> None:
    """The queue of the server is shorter than what was in flight, and everything was answered."""
    assert any("RESOURCE_EXHAUSTED" in key for key in server.metrics())


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["without"], indirect=True)
def test_command_line(both: tuple[Any, Any], server: Server, tasks: Path, tmp_path: Path) -> None:
    """`lm_eval` as it is called from a shell."""
    command = [sys.executable, "-m", "headstream.client.lm_eval", "--model", "headstream"]
    command += ["--model_args", f"target={server.address},concurrency=3", "--tasks", "choices,cut"]
    command += ["--include_path", str(tasks), "--output_path", str(tmp_path)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        command, env=os.environ | offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    for task, metric in (("choices", "acc,none"), ("choices", "acc_norm,none")):
        assert results[task][metric] == both[0]["results"][task][metric]
    assert results["cut"]["exact_match,none"] == both[0]["results"]["cut"]["exact_match,none"]


def test_the_entry_point_names_the_class() -> None:
    """By the name it is registered under, or releases that read it would see two models."""
    from headstream.client.lm_eval import HeadstreamLM

    document = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert document["project"]["entry-points"]["lm_eval.models"] == {
        "headstream": f"{HeadstreamLM.__module__}:{HeadstreamLM.__qualname__}"
    }


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
def test_odd_requests_equal_hf(checkpoint: Path, server: Server, options: dict[str, Any]) -> None:
    """Spaces at seams, no context, marks spelled out, and everything around the context's end."""
    from lm_eval.models import huggingface

    from headstream.client.lm_eval import HeadstreamLM

    hf: Any = huggingface.HFLM
    theirs = hf(str(checkpoint), dtype="float32", device="cpu", **options)
    ours = HeadstreamLM(server.address, **options)
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


def test_length_matters(server: Server) -> None:
    """Negative control: a context cut shorter gives other numbers."""
    from headstream.client.lm_eval import HeadstreamLM

    [request] = instances("loglikelihood", [(words(random.Random(1), 40), " fish")])
    [[whole, _]], [[cut, _]] = (
        HeadstreamLM(server.address, max_length=length).loglikelihood([request], disable_tqdm=True)
        for length in (CONTEXT, 12)
    )
    assert abs(whole - cut) > 1e-2


def test_sampling_follows_the_seed(server: Server) -> None:
    from headstream.client.lm_eval import HeadstreamLM

    model = HeadstreamLM(server.address)
    prompt = (
        "So long and",
        {"do_sample": True, "temperature": 4.0, "top_k": 50, "max_gen_toks": 8},
    )
    requests = [(prompt[0], prompt[1] | {"seed": seed}) for seed in (1, 2, 1)]
    one, other, again = model.generate_until(instances("generate_until", requests))
    assert one == again != other


def test_what_does_not_fit_is_refused_by_name(server: Server) -> None:
    from headstream.client import NotFound
    from headstream.client.lm_eval import HeadstreamLM

    with pytest.raises(ValueError, match=f"max_length 97: the model takes 1 to {CONTEXT}"):
        HeadstreamLM(server.address, max_length=97)
    with pytest.raises(NotFound, match="other"):
        HeadstreamLM(server.address, model="other")
    model = HeadstreamLM(server.address, concurrency=2)
    for asked, message in (
        ({"num_beams": 4}, "num_beams=4 is not supported"),
        ({"max_gen_toks": CONTEXT}, f"max_gen_toks {CONTEXT}: the model takes {CONTEXT}"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate_until(instances("generate_until", [("So long", asked)]))
    with pytest.raises(ValueError, match="a continuation of 0 tokens"):
        model.loglikelihood(instances("loglikelihood", [("So lon", "g")]))
