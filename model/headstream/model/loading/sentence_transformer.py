"""Directories of the sentence-transformers library: a transformer, and how its rows become vectors.

``modules.json`` names the steps, each with a folder of its own. What is read here was written by
its versions 0.3 to 6: older ones say the same in other words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from headstream.model.errors import CheckpointError, UnsupportedModelError
from headstream.model.loading.json_file import read_json, read_object
from headstream.model.outputs import EmbeddingDefaults, PoolKind

_MODULES = "modules.json"
_PACKAGE = "sentence_transformers."
_NO_LIMIT = 1 << 40  # tokens; tokenizers without a limit give 10^30
_POOLING: dict[str, PoolKind] = {"mean": "mean", "cls": "cls", "lasttoken": "last", "max": "max"}
_EARLY_MODES = {  # a flag for each, before there was one word
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True, slots=True)
class SentenceTransformer:
    """What such a directory says beside the checkpoint."""

    directory: Path  # of the checkpoint and its tokenizer
    defaults: EmbeddingDefaults
    max_tokens: int | None  # longer texts are cut by that library; None: it does not say


def read_sentence_transformer(directory: Path) -> SentenceTransformer:
    """How the model in ``directory`` makes vectors; a plain checkpoint says nothing of it.

    Raises:
        UnsupportedModelError: a step, or a choice within one, that is not implemented.
        CheckpointError: a file is missing or malformed.
    """
    if not (directory / _MODULES).is_file():
        return SentenceTransformer(directory, EmbeddingDefaults(), None)
    steps = _steps(directory)
    kinds = [kind for kind, _ in steps]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModelError(
            f"{_MODULES}: {', '.join(kinds)} is not supported "
            "(known: Transformer, Pooling and maybe Normalize)"
        )
    folders = [folder for _, folder in steps]
    pooling, pool_prompt = _pooling(folders[1])
    prompts, default_prompt = _prompts(directory)
    if kinds[2:]:
        _check_normalize(folders[2])
    return SentenceTransformer(
        folders[0],
        EmbeddingDefaults(
            pooling=pooling,
            pool_special=True,
            pool_prompt=pool_prompt,
            normalize=bool(kinds[2:]),
            prompts=prompts,
            default_prompt=default_prompt,
        ),
        _max_tokens(folders[0]),
    )


def _steps(directory: Path) -> list[tuple[str, Path]]:
    """The kind and the folder of each step. Code that the directory brings is not run."""
    path = directory / _MODULES
    steps: list[tuple[str, Path]] = []
    try:
        for module in cast("list[dict[str, Any]]", read_json(path)):
            kind, folder = str(module["type"]), Path(module["path"])
            if not kind.startswith(_PACKAGE):
                raise UnsupportedModelError(f"{_MODULES}: {kind!r} is not of sentence-transformers")
            if folder.is_absolute() or ".." in folder.parts:
                raise CheckpointError(f"{path}: {str(folder)!r} is outside the directory")
            steps.append((kind.rpartition(".")[2], directory / folder))
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is no list of modules") from error
    return steps


def _pooling(folder: Path) -> tuple[PoolKind, bool]:
    """How rows are pooled, and whether those of a prompt are."""
    config = read_object(folder / "config.json")
    given = config.get("pooling_mode")
    if given is None:
        given = [mode for key, mode in _EARLY_MODES.items() if config.get(key)] or ["mean"]
    modes = cast("list[object]", given) if isinstance(given, list) else [given]
    if len(modes) != 1 or modes[0] not in _POOLING:
        known = ", ".join(_POOLING)
        raise UnsupportedModelError(f"pooling_mode: {given!r} is not supported (known: {known})")
    return _POOLING[str(modes[0])], bool(config.get("include_prompt", True))


def _check_normalize(folder: Path) -> None:
    path = folder / "config.json"
    if path.is_file():
        of = read_object(path).get("module_input_name", "sentence_embedding")
        if of != "sentence_embedding":
            raise UnsupportedModelError(f"module_input_name: {of!r} is not supported")


def _prompts(directory: Path) -> tuple[dict[str, str], str]:
    """The prompts by their names, and the name of the one that is used unasked."""
    path = directory / "config_sentence_transformers.json"
    config = read_object(path) if path.is_file() else {}
    prompts: object = config.get("prompts") or {}
    default: object = config.get("default_prompt_name") or ""
    if not isinstance(prompts, dict):
        raise CheckpointError(f"{path}: prompts is no object")
    named = {
        str(name): str(text or "") for name, text in cast("dict[object, object]", prompts).items()
    }
    if default and default not in named:
        raise CheckpointError(f"{path}: default_prompt_name is {default!r}, which is no prompt")
    return named, str(default)


def _max_tokens(folder: Path) -> int | None:
    """The longest text: what the transformer's step says, or its tokenizer."""
    for path in sorted(folder.glob("sentence_*_config.json")):
        config = read_object(path)
        if config.get("do_lower_case"):
            raise UnsupportedModelError(f"{path.name}: do_lower_case is not supported")
        if (task := config.get("transformer_task", "feature-extraction")) != "feature-extraction":
            raise UnsupportedModelError(f"{path.name}: transformer_task {task!r} is not supported")
        if (length := config.get("max_seq_length")) is not None:
            return _positive(length, path)
    path = folder / "tokenizer_config.json"
    length = read_object(path).get("model_max_length") if path.is_file() else None
    return None if length is None else _positive(length, path)


def _positive(length: object, path: Path) -> int:
    """A number of tokens."""
    if not isinstance(length, int | float) or not length >= 1:
        raise CheckpointError(f"{path}: {length!r} is no number of tokens")
    return int(min(length, _NO_LIMIT))
