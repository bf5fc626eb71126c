"""Each family's reading of a Hugging Face config object.

What a checkpoint asks for and the family does not compute is refused by the name of its key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headstream.model.attention.base import AttentionSpec
from headstream.model.config import ModelConfig, RopeSpec
from headstream.model.errors import CheckpointError, UnsupportedModelError

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


def _gpt2(architecture: str, hf: Any) -> ModelConfig:
    _refuse(hf, "add_cross_attention")
    d_head = hf.n_embd // hf.n_head
    base = d_head**-0.5 if hf.scale_attn_weights else 1.0
    scales = [
        base / (index + 1) if hf.scale_attn_by_inverse_layer_idx else base
        for index in range(hf.n_layer)
    ]
    return ModelConfig(
        **_shared(architecture, hf),
        family="gpt2",
        d_head=d_head,
        d_mlp=hf.n_inner or 4 * hf.n_embd,
        n_kv_heads=hf.n_head,
        norm_eps=hf.layer_norm_epsilon,
        activation=_activation(hf, "activation_function"),
        attention=tuple(AttentionSpec(hf.n_head, hf.n_head, d_head, scale) for scale in scales),
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
    )


def _llama(architecture: str, hf: Any) -> ModelConfig:
    d_head = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    bias = bool(getattr(hf, "attention_bias", False))
    rope = _rope(hf.rope_parameters)
    shared = _shared(architecture, hf)
    return ModelConfig(
        **shared,
        family="llama",
        d_head=d_head,
        d_mlp=hf.intermediate_size,
        n_kv_heads=hf.num_key_value_heads,
        norm_eps=hf.rms_norm_eps,
        activation=_activation(hf, "hidden_act"),
        attention=tuple(_attention(hf, d_head, d_head**-0.5, w) for w in _llama_windows(hf)),
        rope=(rope,) * shared["n_layers"],
        qk_norm=hf.model_type == "qwen3",
        qkv_bias=bias or hf.model_type == "qwen2",
        o_bias=bias,
        mlp_bias=bool(getattr(hf, "mlp_bias", False)),
    )


def _gemma3(architecture: str, hf: Any) -> ModelConfig:
    for key in ("attn_logit_softcapping", "use_bidirectional_attention", "attention_bias"):
        _refuse(hf, key)
    scale = hf.query_pre_attn_scalar**-0.5
    return ModelConfig(
        **_shared(architecture, hf),
        family="gemma3",
        d_head=hf.head_dim,
        d_mlp=hf.intermediate_size,
        n_kv_heads=hf.num_key_value_heads,
        norm_eps=hf.rms_norm_eps,
        activation=_activation(hf, "hidden_activation"),
        attention=tuple(_attention(hf, hf.head_dim, scale, w) for w in _typed_windows(hf)),
        rope=tuple(_rope(hf.rope_parameters[kind]) for kind in hf.layer_types),
        qk_norm=True,
        embed_scale=hf.hidden_size**0.5,
        logit_softcap=hf.final_logit_softcapping,
    )


def _bert(architecture: str, hf: Any) -> ModelConfig:
    for key in ("is_decoder", "add_cross_attention"):
        _refuse(hf, key)
    if (kind := getattr(hf, "position_embedding_type", "absolute")) != "absolute":
        raise UnsupportedModelError(f"position_embedding_type: {kind!r} is not supported")
    distil = hf.model_type == "distilbert"
    # In RoBERTa the padding token's id is also the last position that no token has.
    offset = hf.pad_token_id + 1 if "roberta" in hf.model_type else 0
    d_head = hf.hidden_size // hf.num_attention_heads
    shared = _shared(architecture, hf)
    return ModelConfig(
        **shared | {"max_model_len": shared["max_model_len"] - offset},
        family="bert",
        d_head=d_head,
        d_mlp=hf.hidden_dim if distil else hf.intermediate_size,
        n_kv_heads=hf.num_attention_heads,
        norm_eps=1e-12 if distil else hf.layer_norm_eps,
        activation=_activation(hf, "activation" if distil else "hidden_act"),
        attention=(_around(hf, d_head, None),) * shared["n_layers"],
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        position_offset=offset,
        n_token_types=0 if distil else hf.type_vocab_size,
    )


def _modernbert(architecture: str, hf: Any) -> ModelConfig:
    d_head = hf.hidden_size // hf.num_attention_heads
    # Theirs is how far a row sees to each side; ours counts the row itself.
    windows = [None if reach is None else reach + 1 for reach in _typed_windows(hf)]
    return ModelConfig(
        **_shared(architecture, hf),
        family="modernbert",
        d_head=d_head,
        d_mlp=hf.intermediate_size,
        n_kv_heads=hf.num_attention_heads,
        norm_eps=hf.norm_eps,
        activation=_activation(hf, "hidden_activation"),
        attention=tuple(_around(hf, d_head, window) for window in windows),
        rope=tuple(_rope(hf.rope_parameters[kind]) for kind in hf.layer_types),
        qkv_bias=hf.attention_bias,
        o_bias=hf.attention_bias,
        mlp_bias=hf.mlp_bias,
        norm_bias=hf.norm_bias,
    )


TRANSLATORS: dict[str, Callable[[str, Any], ModelConfig]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "gemma3": _gemma3,
    "bert": _bert,
    "modernbert": _modernbert,
}
"""Family -> (architecture, config object) -> ModelConfig."""


def _shared(architecture: str, hf: Any) -> dict[str, Any]:
    """The fields every family reads alike (transformers aliases GPT-2's own words to these)."""
    eos = hf.eos_token_id
    rope = getattr(hf, "rope_parameters", None) or {}
    if not getattr(hf, "head_dim", None) and hf.hidden_size % hf.num_attention_heads:
        raise CheckpointError("hidden_size is no multiple of num_attention_heads")
    return {
        "architecture": architecture,
        "d_model": hf.hidden_size,
        "n_layers": hf.num_hidden_layers,
        "n_heads": hf.num_attention_heads,
        "d_vocab": hf.vocab_size,
        "max_model_len": max(hf.max_position_embeddings, _yarn_len(rope)),
        "tied": bool(hf.tie_word_embeddings),
        "unembeds": architecture.endswith(("ForCausalLM", "LMHeadModel")),
        "bos_id": hf.bos_token_id,
        "eos_ids": () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
    }


def _yarn_len(rope: dict[str, Any]) -> int:
    """YaRN configs give the trained length and a factor, and often not their product."""
    if rope.get("rope_type") != "yarn":
        return 0
    return int(rope["original_max_position_embeddings"] * rope["factor"])


def _attention(hf: Any, d_head: int, scale: float, window: int | None) -> AttentionSpec:
    n_heads, n_kv_heads = hf.num_attention_heads, hf.num_key_value_heads
    if n_heads % n_kv_heads:
        raise CheckpointError("num_attention_heads is no multiple of num_key_value_heads")
    return AttentionSpec(n_heads, n_kv_heads, d_head, scale, window)


def _around(hf: Any, d_head: int, window: int | None) -> AttentionSpec:
    """Attention of an encoder: before and behind, as many heads of each kind."""
    heads = hf.num_attention_heads
    return AttentionSpec(heads, heads, d_head, d_head**-0.5, window, causal=False)


def _llama_windows(hf: Any) -> list[int | None]:
    if hf.model_type == "mistral":  # one window for all layers
        _refuse(hf, "layer_types")
        return [hf.sliding_window] * hf.num_hidden_layers
    if getattr(hf, "layer_types", None):
        return _typed_windows(hf)
    return [None] * hf.num_hidden_layers


def _typed_windows(hf: Any) -> list[int | None]:
    windows = {"sliding_attention": hf.sliding_window, "full_attention": None}
    unknown = set(hf.layer_types) - windows.keys()
    if unknown:
        raise UnsupportedModelError(f"layer_types: {sorted(unknown)} are not supported")
    if "sliding_attention" in hf.layer_types and hf.sliding_window is None:
        raise CheckpointError("layer_types has sliding layers, but sliding_window is not set")
    return [windows[kind] for kind in hf.layer_types]


def _rope(parameters: dict[str, Any]) -> RopeSpec:
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError("partial_rotary_factor: partly rotated heads are not supported")
    return RopeSpec(
        theta=float(parameters["rope_theta"]),
        kind=parameters["rope_type"],
        parameters={k: v for k, v in parameters.items() if k not in ("rope_theta", "rope_type")},
    )


def _activation(hf: Any, key: str) -> str:
    name = getattr(hf, key)
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UnsupportedModelError(f"{key}: {name!r} is not supported (known: {known})")
    return _ACTIVATIONS[name]


def _refuse(hf: Any, key: str) -> None:
    value = getattr(hf, key, None)
    if value:
        raise UnsupportedModelError(f"{key}: {value!r} is not supported")
