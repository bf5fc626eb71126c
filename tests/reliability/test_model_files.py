"""Damaged and hostile model files, in processes with bounded memory: refused by name, or served."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import tiny_tokenizers
from file_mutants import WEIGHTS
from headstream.model.errors import CheckpointError, PickleRefusedError
from mutant_loader import HANG_SECONDS, load
from outcome import Table
from tiny_models import save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TESTS = Path(__file__).resolve().parent.parent
KERNELS = Path.home() / ".cache" / "headstream" / "kernels"
SEED = 20261127
SPARE_BYTES = 256 << 20
"""Memory that a load may take beyond twice its files."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A decoder of each family with a tokenizer, and an encoder as sentence-transformers has it."""
    home = tmp_path_factory.mktemp("originals")
    pieces = tiny_tokenizers
    for family, tokenizer in {
        "gemma3": pieces.byte_level_tokenizer(),
        "llama": pieces.byte_fallback_tokenizer(),
        "gpt2": pieces.byte_level_tokenizer(),
        "bert": pieces.word_piece_tokenizer(),
    }.items():
        directory = save_tiny(family, home / family, vocab_size=420)
        tokenizer.save(str(directory / "tokenizer.json"))
        template = "{% for message in messages %}{{ message.content }}{% endfor %}"
        (directory / "tokenizer_config.json").write_text(
            json.dumps({"chat_template": template, "eos_token": "<eos>", "model_max_length": 500})
        )
    _write_sentence_transformer(home / "bert")
    return sorted(home.iterdir())


def _write_sentence_transformer(directory: Path) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    (directory / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: "}}')


@dataclass
class Outcomes:
    """How the mutants of a run ended."""

    ends: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    peak: int = 0

    def add(self, about: dict[str, Any], outcome: dict[str, Any]) -> None:
        end, error, grown = outcome["end"], outcome["error"], outcome["grown"]
        self.ends[end] += 1
        self.peak = max(self.peak, grown)
        if end in {"fault", "died"}:
            self.wrong.append(f"{about}: {error}")
        elif end == "refused" and not _names_it(about["file"], error):
            self.wrong.append(f"{about}: its error does not say where: {error}")
        elif grown > 2 * about["size"] + SPARE_BYTES:
            self.wrong.append(f"{about}: {grown >> 20} MiB")


def _names_it(file: str, error: str) -> bool:
    """Its file, or the tensor that is not as the configuration says."""
    return file in error or "tensor" in error


def make_cache(home: Path) -> Path:
    """A cache of its own, but for the compiled kernels."""
    cache = home / "cache"
    cache.mkdir()
    KERNELS.mkdir(parents=True, exist_ok=True)
    (cache / "kernels").symlink_to(KERNELS)
    return cache


def load_all(originals: list[Path], scratch: Path, count: int) -> Outcomes:
    """A new process begins where one has died."""
    make_cache(scratch)
    outcomes = Outcomes()
    number = 0
    while number < count:
        number = _load_some(originals, scratch, number, count, outcomes)
    return outcomes


def _load_some(
    originals: list[Path], scratch: Path, first: int, end: int, outcomes: Outcomes
) -> int:
    """The number that comes next."""
    command = [sys.executable, str(TESTS / "mutant_loader.py")]
    command += [",".join(map(str, originals)), str(scratch), str(SEED), str(first), str(end)]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    about: dict[str, Any] = {}
    number = first
    with (
        (scratch / "stderr").open("w") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if not about:
                about = json.loads(line)
                continue
            outcomes.add(about, json.loads(line))
            number, about = about["number"] + 1, {}
    code = process.returncode
    said = (scratch / "stderr").read_text()[-2000:]
    if about:
        error = f"ended with {code}; a hang ends after {HANG_SECONDS} s: {said}"
        outcomes.add(about, {"end": "died", "error": error, "grown": 0})
        return int(about["number"]) + 1
    assert code == 0, said
    return number


def test_mutants_are_refused_by_name_or_served(
    originals: list[Path], tmp_path: Path, table: Table, long: bool
) -> None:
    count = 2000 if long else 150
    outcomes = load_all(originals, tmp_path, count)
    ends = outcomes.ends
    table.add(
        f"damaged model files: {ends['refused']:,} refused by name, {ends['loaded']:,} served, "
        f"{outcomes.peak >> 20} MiB at most",
        count,
        ends["refused"] + ends["loaded"],
        len(outcomes.wrong),
    )
    assert not outcomes.wrong, "\n".join(outcomes.wrong)
    assert ends["refused"] > count / 3, "the mutants do no harm"
    assert ends["loaded"] > 0


class Writes:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "read")


PICKLES = [f"pytorch_model.{kind}" for kind in ("bin", "pt", "pth", "ckpt", "pkl")]


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_refused_unread(
    name: str, protocol: int, originals: list[Path], tmp_path: Path, table: Table
) -> None:
    """Alone, or under a name that promises something else."""
    written = tmp_path / "written"
    data = pickle.dumps(Writes(written), protocol)
    cache = make_cache(tmp_path)
    for target, error in ((name, PickleRefusedError), (WEIGHTS, CheckpointError)):
        model = tmp_path / target
        shutil.copytree(originals[0], model)
        (model / WEIGHTS).unlink()
        (model / target).write_bytes(data)
        with pytest.raises(error, match=target):
            load(model, cache)
        assert not written.exists()
    if (name, protocol) == (PICKLES[-1], 5):
        table.add("pickles as weights, refused unread", 2 * 2 * len(PICKLES), 0, 0)
        pickle.loads(data)
        assert written.exists(), "negative control"
