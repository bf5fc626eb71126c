"""Small random checkpoints of every family, made by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

D_VOCAB = 211
LONGEST = 600
"""Tokens of the longest text of an encoder."""

_SIZES: dict[str, Any] = {
    "vocab_size": D_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "initializer_range": 0.3,
}
_DECODER = _SIZES | {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
_ENCODER = _SIZES | {"max_position_embeddings": LONGEST, "pad_token_id": 0}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "gpt2",
        {
            "vocab_size": D_VOCAB,
            "n_embd": 64,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 1024,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "initializer_range": 0.3,
        },
    ),
    "llama": ("llama", _DECODER),
    "gemma3": (  # both layer types, and a window shorter than the texts
        "gemma3_text",
        _DECODER
        | {
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 16,
        },
    ),
}
"""Families that generate: a model type of transformers, and its sizes."""
KIN: dict[str, tuple[str, dict[str, Any]]] = {"qwen3": ("qwen3", _DECODER)}
"""Models that one of these families computes, too."""
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _ENCODER),
    "modernbert": (
        "modernbert",
        _ENCODER | {"local_attention": 48, "cls_token_id": 2, "sep_token_id": 1},
    ),
}
"""Families that read both ways."""


def save_tiny(family: str, directory: Path, **changes: Any) -> Path:
    """A random model of a family, biases included."""
    torch.manual_seed(7)
    model_type, sizes = (DECODERS | KIN | ENCODERS)[family]
    auto_config: Any = transformers.AutoConfig
    auto_model: Any = (
        transformers.AutoModel if family in ENCODERS else transformers.AutoModelForCausalLM
    )
    model = auto_model.from_config(auto_config.for_model(model_type, **sizes | changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    model.eval().save_pretrained(directory)
    return directory
