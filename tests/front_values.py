"""Values of a tiny model: what its engine says, and what its limits are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from headstream.model.outputs import EmbeddingDefaults
from headstream.model.sites import site_names
from headstream.server.config import Settings
from headstream.server.engine.messages import Ready
from headstream.server.engine.stream import Event, WireTensor
from headstream.server.limits import Limits, resolve_limits

D_MODEL = 8
N_LAYERS = 2
MAX_MODEL_LEN = 64


def make_ready(directory: Path, d_vocab: int, **changes: Any) -> Ready:
    values: dict[str, Any] = {
        "directory": str(directory),
        "family": "gpt2",
        "architecture": "TinyForCausalLM",
        "n_layers": N_LAYERS,
        "d_model": D_MODEL,
        "n_heads": 2,
        "n_kv_heads": 2,
        "d_head": 4,
        "d_mlp": 16,
        "sites": site_names(learned_positions=True),
        "d_vocab": d_vocab,
        "causal": True,
        "unembeds": True,
        "embedding": EmbeddingDefaults(),
        "max_model_len": MAX_MODEL_LEN,
        "parameters": 1000,
        "dtype": "float32",
        "quantization": "none",
        "backend": "fake",
        "batch_invariant": True,
        "weights_sha256": "0" * 64,
        "eos_ids": (1,),
        "blocks_total": 10,
        "block_size": 8,
        **changes,
    }
    return Ready(**values)


def make_limits(**changes: Any) -> Limits:
    """Limits of a tiny model."""
    limits = resolve_limits(Settings(), make_ready(Path(), 400))
    return dataclasses.replace(limits, **changes)


def make_event(**changes: Any) -> Event:
    values: dict[str, Any] = {
        "token": None,
        "rows": (),
        "vectors": None,
        "scores": None,
        "finish": None,
        "queue_ns": 5,
        "compute_ns": 7,
    }
    return Event(**{**values, **changes})


def float_tensor(values: np.ndarray) -> WireTensor:
    return WireTensor("float32", values.shape, values.astype("<f4").tobytes())
