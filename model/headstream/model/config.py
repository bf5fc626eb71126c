"""What a model is: sizes and choices read from its checkpoint, frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headstream.model.attention.base import AttentionSpec


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary positions of one layer kind: base, scaling type and its parameters."""

    theta: float
    kind: str = "default"  # default | linear | llama3 | yarn
    parameters: dict[str, Any] = field(
        default_factory=dict
    )  # as in the checkpoint's rope_parameters
    dims: int | None = None  # rotated width, None: the whole head


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of one model in the standard letters (see ``batch``), the same for every family."""

    family: str  # gpt2 | llama | gemma3 | bert | modernbert
    architecture: str  # the checkpoint's own word, e.g. Qwen3ForCausalLM
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int
    max_model_len: int  # longest sequence the positions allow
    norm_eps: float
    activation: str  # gelu | gelu_tanh | silu
    tied: bool  # the unembedding is the embedding, transposed
    attention: tuple[AttentionSpec, ...]  # [L]
    rope: tuple[RopeSpec, ...] = ()  # [L], empty: learned absolute positions
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = True  # of LayerNorms
    position_offset: int = 0  # row of the learned positions that position 0 has
    n_token_types: int = 0  # kinds of segments that embeddings tell apart; all tokens are the first
    unembeds: bool = True  # otherwise it gives vectors, and no logits
    embed_scale: float = 1.0
    logit_softcap: float | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    @property
    def causal(self) -> bool:
        """Whether rows see only what is before them; otherwise a text is computed as a whole."""
        return all(spec.causal for spec in self.attention)
