"""What directories of sentence-transformers say, and what of it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headstream.model.errors import CheckpointError, UnsupportedModelError
from headstream.model.loading.sentence_transformer import read_sentence_transformer
from headstream.model.outputs import EmbeddingDefaults

TRANSFORMER = "sentence_transformers.models.Transformer"
POOLING = "sentence_transformers.models.Pooling"
NORMALIZE = "sentence_transformers.models.Normalize"
DENSE = "sentence_transformers.models.Dense"


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def save(directory: Path, *types: str, pooling: Any = None, first: str = "", **files: Any) -> Path:
    """A directory with these modules; ``files``: name without .json -> content, in the root."""
    folders = [first, *(f"{i}_{name.rpartition('.')[2]}" for i, name in enumerate(types) if i)]
    modules = [
        {"idx": i, "name": str(i), "path": folder, "type": name}
        for i, (folder, name) in enumerate(zip(folders, types, strict=True))
    ]
    write(directory / "modules.json", modules)
    write(directory / "1_Pooling" / "config.json", pooling or {"pooling_mode": "mean"})
    for name, value in files.items():
        write(directory / f"{name}.json", value)
    return directory


def test_a_plain_checkpoint_says_nothing(tmp_path: Path) -> None:
    found = read_sentence_transformer(tmp_path)
    assert (found.directory, found.max_tokens) == (tmp_path, None)
    assert found.defaults == EmbeddingDefaults("mean", pool_special=False, normalize=True)


def test_all_that_it_says(tmp_path: Path) -> None:
    directory = save(
        tmp_path,
        *(TRANSFORMER, POOLING, NORMALIZE),
        pooling={"pooling_mode": "lasttoken", "include_prompt": False},
        first="0_Transformer",
        config_sentence_transformers={
            "prompts": {"query": "Instruct: find\nQuery:", "document": None},
            "default_prompt_name": "query",
        },
    )
    write(directory / "0_Transformer" / "sentence_roberta_config.json", {"max_seq_length": 128})
    found = read_sentence_transformer(directory)
    assert (found.directory, found.max_tokens) == (directory / "0_Transformer", 128)
    assert found.defaults == EmbeddingDefaults(
        pooling="last",
        pool_special=True,
        pool_prompt=False,
        normalize=True,
        prompts={"query": "Instruct: find\nQuery:", "document": ""},
        default_prompt="query",
    )


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"word_embedding_dimension": 384}, "mean"),  # as that library takes it
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode": "max", "pooling_mode_cls_token": True}, "max"),
    ],
)
def test_pooling_in_the_words_of_every_version(
    tmp_path: Path, config: dict[str, Any], pooling: str
) -> None:
    found = read_sentence_transformer(save(tmp_path, TRANSFORMER, POOLING, pooling=config))
    assert found.defaults.pooling == pooling
    assert not found.defaults.normalize


@pytest.mark.parametrize(
    ("step", "tokenizer", "length"),
    [
        ({"max_seq_length": 256}, {"model_max_length": 512}, 256),
        ({"max_seq_length": None}, {"model_max_length": 512}, 512),
        ({}, {"model_max_length": 1e30}, 1 << 40),
        ({}, {}, None),
    ],
)
def test_the_longest_text(
    tmp_path: Path, step: dict[str, Any], tokenizer: dict[str, Any], length: int | None
) -> None:
    directory = save(
        tmp_path,
        *(TRANSFORMER, POOLING),
        sentence_bert_config=step,
        tokenizer_config=tokenizer,
    )
    assert read_sentence_transformer(directory).max_tokens == length


@pytest.mark.parametrize(
    ("types", "files", "named"),
    [
        ((TRANSFORMER, POOLING, DENSE), {}, "Dense"),
        ((TRANSFORMER,), {}, "Transformer"),
        ((TRANSFORMER, "evil.Pooling"), {}, "evil.Pooling"),
        ((TRANSFORMER, POOLING), {"pooling": {"pooling_mode": "weightedmean"}}, "weightedmean"),
        ((TRANSFORMER, POOLING), {"pooling": {"pooling_mode": ["cls", "mean"]}}, "cls"),
        (
            (TRANSFORMER, POOLING),
            {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}},
            "pooling_mode",
        ),
        ((TRANSFORMER, POOLING), {"sentence_bert_config": {"do_lower_case": True}}, "do_lower"),
        (
            (TRANSFORMER, POOLING),
            {"sentence_bert_config": {"transformer_task": "fill-mask"}},
            "fill-mask",
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    tmp_path: Path, types: tuple[str, ...], files: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        read_sentence_transformer(save(tmp_path, *types, **files))


def test_vectors_normed_elsewhere_are_refused(tmp_path: Path) -> None:
    directory = save(tmp_path, TRANSFORMER, POOLING, NORMALIZE)
    write(directory / "2_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    with pytest.raises(UnsupportedModelError, match="module_input_name"):
        read_sentence_transformer(directory)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("modules.json", "{}", "no list of modules|not supported"),
        ("modules.json", "[1]", "no list of modules"),
        ("modules.json", "[", "not JSON"),
        ("1_Pooling/config.json", "[]", "not a JSON object"),
        ("config_sentence_transformers.json", '{"prompts": 3}', "prompts is no object"),
        ("config_sentence_transformers.json", '{"default_prompt_name": "q"}', "is no prompt"),
        ("sentence_bert_config.json", '{"max_seq_length": "long"}', "no number of tokens"),
        ("tokenizer_config.json", '{"model_max_length": 0}', "no number of tokens"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, what: str) -> None:
    directory = save(tmp_path, TRANSFORMER, POOLING)
    (directory / name).write_text(content)
    with pytest.raises((CheckpointError, UnsupportedModelError), match=what):
        read_sentence_transformer(directory)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b"])
def test_modules_lie_within_the_directory(tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match="outside the directory"):
        read_sentence_transformer(save(tmp_path, TRANSFORMER, POOLING, first=path))
