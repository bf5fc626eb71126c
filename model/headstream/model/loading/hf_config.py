"""config.json and generation_config.json of a Hugging Face checkpoint to a ``ModelConfig``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from headstream.model.config import ModelConfig
from headstream.model.errors import CheckpointError, UnsupportedModelError
from headstream.model.families import family_of
from headstream.model.loading.config_check import (
    MAX_SIZE,
    blamed_on,
    check_config,
    check_layers,
)
from headstream.model.loading.hf_families import TRANSLATORS
from headstream.model.loading.json_file import read_object
from headstream.model.loading.library import transformers


def read_config(directory: Path) -> ModelConfig:
    """The sizes and choices of the checkpoint in ``directory``.

    ``transformers`` fills in what the file leaves to each architecture's defaults; no code from
    the checkpoint is run and nothing is fetched.

    Raises:
        CheckpointError: config.json is missing, malformed or contradicts itself.
        UnsupportedModelError: an unknown architecture, or a feature that is not implemented.
    """
    path = directory / "config.json"
    raw = read_object(path)
    with blamed_on(path):
        architecture = _architecture(raw)
        family = family_of(architecture)
        if raw.get("quantization_config"):
            raise UnsupportedModelError(
                "quantization_config: quantized checkpoints are not supported"
            )
        check_layers(raw)
        config = TRANSLATORS[family](architecture, _auto_config(directory))
        check_config(config, _weight_bytes(directory))
    return replace(config, eos_ids=_eos_ids(config, directory))


def _architecture(raw: dict[str, Any]) -> str:
    names = raw.get("architectures")
    if not isinstance(names, list) or len(names) != 1:
        raise CheckpointError(f"it does not name one architecture: {names!r}")
    return str(names[0])


def _auto_config(directory: Path) -> Any:
    auto = transformers().AutoConfig
    return auto.from_pretrained(directory, trust_remote_code=False, local_files_only=True)


def _weight_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _eos_ids(config: ModelConfig, directory: Path) -> tuple[int, ...]:
    """The ids that end a text: chat models name more of them in generation_config.json."""
    path = directory / "generation_config.json"
    if not path.is_file():
        return config.eos_ids
    more = _token_ids(read_object(path).get("eos_token_id"), path)
    return tuple(dict.fromkeys(config.eos_ids + more))


def _token_ids(value: object, where: object) -> tuple[int, ...]:
    """One id, a list of ids or None, as a tuple.

    Raises:
        CheckpointError: anything else.
    """
    ids = cast("list[object]", value) if isinstance(value, list) else [value]
    if value is None:
        return ()
    if not all(type(token) is int and abs(token) <= MAX_SIZE for token in ids):
        raise CheckpointError(f"{where}: eos_token_id is {value!r}")
    return tuple(cast("list[int]", ids))
