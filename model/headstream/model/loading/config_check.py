"""Sizes and choices that a checkpoint asks for, held to what can be computed before any memory."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from headstream.model.config import ModelConfig
from headstream.model.errors import CheckpointError, UnsupportedModelError
from headstream.model.layers.rope_scaling import inverse_frequencies

MAX_LAYERS = 10_000
MAX_SIZE = (1 << 31) - 1
_MAX_D_HEAD = 1 << 16
_SMALL_TABLES = 64 << 20  # bytes, however small the model is
_SHOWN = 300  # characters of an error of another library

_FAULTS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(MemoryError, RecursionError, StrictDataclassError),
)


@contextmanager
def blamed_on(path: Path) -> Generator[None]:
    """Whatever goes wrong within is the fault of the file at ``path``, and says so.

    Raises:
        UnsupportedModelError: as within.
        CheckpointError: anything else.
    """
    try:
        yield
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{path}: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except _FAULTS as error:
        what = f"{type(error).__name__}: {error}"[:_SHOWN]
        raise CheckpointError(f"{path} is not usable: {what}") from error


def check_layers(raw: dict[str, Any]) -> None:
    """Call before ``transformers`` makes lists of so many entries.

    Raises:
        CheckpointError: too many layers, or no number of them.
    """
    for key in ("num_hidden_layers", "num_layers", "n_layers", "n_layer"):
        if key in raw:
            _check_count(key, raw[key], MAX_LAYERS)


def check_config(config: ModelConfig, num_bytes: int) -> None:
    """Every number in its range, every layer described; ``num_bytes``: of the weight files.

    Raises:
        CheckpointError: a number that no model can have.
        UnsupportedModelError: a rotary scaling that is not implemented.
    """
    _check_count("number of layers", config.n_layers, MAX_LAYERS)
    _check_count("size of a head", config.d_head, _MAX_D_HEAD)
    for name in ("d_model", "n_heads", "n_kv_heads", "d_mlp", "d_vocab", "max_model_len"):
        _check_count(name, getattr(config, name), MAX_SIZE)
    _check_number("the epsilon of norms", config.norm_eps, least=0.0)
    _check_number("the softcap of logits", config.logit_softcap or 0.0)
    for token in (config.bos_id, *config.eos_ids):
        if token is not None and (type(token) is not int or abs(token) > MAX_SIZE):
            raise CheckpointError(f"{token!r} is no token")
    if len(config.attention) != config.n_layers or len(config.rope) not in {0, config.n_layers}:
        raise CheckpointError(
            f"{len(config.attention)} layers are described where there are {config.n_layers}"
        )
    for spec in set(config.attention):
        _check_number("the scale of attention", spec.scale)
        if spec.window is not None:
            _check_count("sliding_window", spec.window, MAX_SIZE)
    _check_rope(config, num_bytes)


def _check_rope(config: ModelConfig, num_bytes: int) -> None:
    """Frequencies are numbers, and their tables are no larger than the weights."""
    specs = [spec for number, spec in enumerate(config.rope) if spec not in config.rope[:number]]
    for spec in specs:
        frequencies, magnitude = inverse_frequencies(spec, spec.dims or config.d_head)
        if not (bool(torch.isfinite(frequencies).all()) and math.isfinite(magnitude)):
            raise CheckpointError(f"rotary positions of base {spec.theta} turn by no number")
    table_bytes = len(specs) * config.max_model_len * config.d_head * 4
    if table_bytes > max(num_bytes, _SMALL_TABLES):
        raise CheckpointError(
            f"rotary positions of {config.max_model_len} tokens would take {table_bytes} bytes, "
            f"more than the weights ({num_bytes})"
        )


def _check_count(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise CheckpointError(f"{name} is {str(value)[:_SHOWN]}, not a number from 1 to {most}")


def _check_number(name: str, value: object, least: float = -math.inf) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise CheckpointError(f"{name} is {str(value)[:_SHOWN]}")
