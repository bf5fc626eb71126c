"""Whole tasks of lm-evaluation-harness over a real server, beside its own `hf` model."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from evaluated_model import CONTEXT, words
from server_process import Server

pytest.importorskip("lm_eval", reason="needs the extra [eval]")

NEW_TOKENS = 12


@pytest.fixture(scope="module")
def greedy(short_model: Path) -> Any:
    """Text -> the text that transformers' greedy decoding puts behind it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(short_model)
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(short_model, dtype=torch.float32)

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
def both(short_model: Path, short_server: Server, tasks: Path) -> tuple[Any, Any]:
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
        theirs = run("hf", pretrained=str(short_model), dtype="float32")
        return theirs, run("headstream", target=short_server.address)


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


def test_results_say_which_numbers_they_are(both: tuple[Any, Any], short_server: Server) -> None:
    from headstream.client import Client

    with Client(short_server.address) as client:
        fingerprint = client.model().fingerprint
    config = both[1]["config"]
    assert config["model_sha"] == fingerprint.weights_sha256
    assert config["model_dtype"] == "float32"
    assert config["max_length"] == CONTEXT


def test_a_busy_server_is_asked_again(both: tuple[Any, Any], short_server: Server) -> None:
    """The queue of the server is shorter than what was in flight, and everything was answered."""
    assert any("RESOURCE_EXHAUSTED" in key for key in short_server.metrics())


@pytest.mark.slow
@pytest.mark.parametrize("short_model", ["without"], indirect=True)
def test_command_line(
    both: tuple[Any, Any], short_server: Server, tasks: Path, tmp_path: Path
) -> None:
    """`lm_eval` as it is called from a shell."""
    command = [sys.executable, "-m", "headstream.client.lm_eval", "--model", "headstream"]
    command += [
        "--model_args",
        f"target={short_server.address},concurrency=3",
        "--tasks",
        "choices,cut",
    ]
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
