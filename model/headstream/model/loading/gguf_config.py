"""The Hugging Face config a GGUF file's metadata stands for.

Key names: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
Every key under the architecture's name is either translated or refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from headstream.model.errors import UnsupportedModelError

_CLASSES = {
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}

_GPT2_KEYS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "vocab_size": "vocab_size",
}
_LLAMA_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
_GEMMA3_KEYS = _LLAMA_KEYS | {"attention.sliding_window": "sliding_window"}
_KEYS = {"gpt2": _GPT2_KEYS, "gemma3": _GEMMA3_KEYS}

_OPTIONAL = {"attention.key_length", "rope.freq_base", "vocab_size"}
_TOKEN_IDS = {"bos_token_id": "bos_token_id", "padding_token_id": "pad_token_id"}


def config_from_metadata(metadata: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Any]:
    """Metadata and tensor names of a GGUF file -> keyword arguments of the config class.

    Raises:
        UnsupportedModelError: another architecture, a missing key, or one that is not translated.
    """
    arch = str(metadata.get("general.architecture"))
    if arch not in _CLASSES:
        known = ", ".join(_CLASSES)
        raise UnsupportedModelError(f"GGUF architecture {arch!r} is unknown (known: {known})")
    own = {
        key.removeprefix(f"{arch}."): value
        for key, value in metadata.items()
        if key.startswith(f"{arch}.")
    }
    keys = _KEYS.get(arch, _LLAMA_KEYS)
    _refuse_rest(arch, own, keys)
    model_type, architecture = _CLASSES[arch]
    config: dict[str, Any] = {"model_type": model_type, "architectures": [architecture]}
    config |= {ours: own[key] for key, ours in keys.items() if key in own}
    config.setdefault("vocab_size", metadata.get("tokenizer.ggml.tokens"))  # read as a count
    config["tie_word_embeddings"] = "output.weight" not in tensors
    config |= _special_tokens(metadata)
    return config


def _refuse_rest(arch: str, own: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    missing = keys.keys() - own.keys() - _OPTIONAL
    if missing:
        raise UnsupportedModelError(f"GGUF key {arch}.{min(missing)} is missing")
    d_head = own.get("attention.key_length", own["embedding_length"] // own["attention.head_count"])
    # These may be written as long as they say what is assumed anyway.
    assumed = {
        "rope.dimension_count": d_head,
        "attention.value_length": d_head,
        "rope.scaling.type": "none",
    }
    for key, value in own.items():
        if key not in keys and (key not in assumed or value != assumed[key]):
            raise UnsupportedModelError(f"GGUF key {arch}.{key} = {value!r} is not supported")
    if arch == "gemma3" and d_head != 256:
        # The 27B model scales its scores by another constant, which the file does not hold.
        raise UnsupportedModelError(f"GGUF key gemma3.attention.key_length = {d_head}")


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, Any]:
    tokens: dict[str, Any] = {
        ours: metadata.get(f"tokenizer.ggml.{key}") for key, ours in _TOKEN_IDS.items()
    }
    ends = [metadata.get(f"tokenizer.ggml.{key}") for key in ("eos_token_id", "eot_token_id")]
    ends = [end for end in dict.fromkeys(ends) if end is not None]
    tokens["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    return tokens
