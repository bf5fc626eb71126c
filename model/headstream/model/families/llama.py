"""Llama and its kin: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

One family, told apart by the config alone: Llama (Touvron et al. 2023, arXiv:2302.13971), Mistral
(sliding window, arXiv:2310.06825), Qwen2 (bias on q, k, v, arXiv:2407.10671), Qwen3 (norm on the
heads of q and k, arXiv:2505.09388). Checkpoint names are Hugging Face's.
"""

from __future__ import annotations

from torch import Tensor

from headstream.model.attention.base import Attend
from headstream.model.batch import Taps
from headstream.model.config import ModelConfig
from headstream.model.families.base import MakeLinear
from headstream.model.layers.activation import Activation
from headstream.model.layers.embedding import Embedding
from headstream.model.layers.linear import LinearWeights
from headstream.model.layers.mlp import GatedMLP
from headstream.model.layers.norm import RMSNorm
from headstream.model.layers.qkv import QKV
from headstream.model.layers.rope import Rope, Rotation, rotate
from headstream.model.layers.unembedding import Unembedding
from headstream.model.weights import Weights


class LlamaModel:
    """ids -> residual stream -> logits; see ``families.base.Model``."""

    def __init__(self, config: ModelConfig, weights: Weights, make_linear: MakeLinear) -> None:
        self.config = config
        self._embed = Embedding(
            weights.take("embed_tokens.weight", (config.d_vocab, config.d_model)),
            config.embed_scale,
        )
        self._rope = Rope(config, self._embed.weight.device)
        self._layers = [
            LlamaLayer(config, index, weights, make_linear) for index in range(config.n_layers)
        ]
        self._norm = RMSNorm(weights.take("norm.weight", (config.d_model,)), config.norm_eps)
        self._unembed = Unembedding.take(config, weights, self._embed, make_linear)

    def static_embeddings(self, input_ids: Tensor) -> Tensor:
        """Rows of E [n, d] for ``input_ids`` int64 [n]."""
        return self._embed(input_ids)

    def forward(self, input_ids: Tensor, positions: Tensor, attend: Attend, taps: Taps) -> Tensor:
        """Packed rows int64 [N] -> residual stream [N, d] before the final norm."""
        resid = self._embed(input_ids)  # [N, d]
        taps.record(0, resid)
        rotations = self._rope.rows(positions, resid.dtype)
        for index, layer in enumerate(self._layers):
            resid = layer(resid, rotations[index], attend)
            taps.record(index + 1, resid)
        return resid

    def final_norm(self, resid: Tensor) -> Tensor:
        """Rows [R, d] -> [R, d]."""
        return self._norm(resid)

    def unembed(self, rows: Tensor) -> Tensor:
        """Normed rows [R, d] -> logits [R, V]."""
        return self._unembed(rows)

    def rescore(self, rows: Tensor, token_ids: Tensor) -> Tensor:
        """Normed rows [R, d], ids int64 [R, K] -> float32 logits [R, K]."""
        return self._unembed.rescore(rows, token_ids)


class LlamaLayer:
    """resid += attention(norm(resid)); resid += mlp(norm(resid))."""

    def __init__(
        self, config: ModelConfig, index: int, weights: Weights, make_linear: MakeLinear
    ) -> None:
        name, shape = f"layers.{index}", (config.d_model,)
        self._index = index
        self._norm_attention = RMSNorm(
            weights.take(f"{name}.input_layernorm.weight", shape), config.norm_eps
        )
        self._attention = LlamaAttention(config, index, weights, make_linear)
        self._norm_mlp = RMSNorm(
            weights.take(f"{name}.post_attention_layernorm.weight", shape), config.norm_eps
        )
        self._mlp = gated_mlp(config, index, weights, make_linear)

    def __call__(self, resid: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """[N, d] -> [N, d]."""
        resid = resid + self._attention(self._norm_attention(resid), rotation, attend)
        return resid + self._mlp(self._norm_mlp(resid))


class LlamaAttention:
    """Projections, head norms and rotation around the attention backend."""

    def __init__(
        self, config: ModelConfig, index: int, weights: Weights, make_linear: MakeLinear
    ) -> None:
        name, spec = f"layers.{index}.self_attn", config.attention[index]
        self._index = index
        self._qkv = QKV(qkv_weights(config, index, weights), spec, make_linear)
        self._norm_q = self._norm_k = None
        if config.qk_norm:
            shape = (spec.d_head,)
            self._norm_q = RMSNorm(weights.take(f"{name}.q_norm.weight", shape), config.norm_eps)
            self._norm_k = RMSNorm(weights.take(f"{name}.k_norm.weight", shape), config.norm_eps)
        width = spec.n_heads * spec.d_head
        out = LinearWeights.take(
            weights, f"{name}.o_proj", config.d_model, width, bias=config.o_bias
        )
        self._out = make_linear(out.weight, out.bias)

    def __call__(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """[N, d] -> [N, d]."""
        q, k, v = self._qkv(x)  # [N, H, D], [N, G, D], [N, G, D]
        if self._norm_q is not None and self._norm_k is not None:
            q, k = self._norm_q(q), self._norm_k(k)
        z = attend(self._index, rotate(q, rotation), rotate(k, rotation), v)  # [N, H, D]
        return self._out(z.flatten(1))


def qkv_weights(config: ModelConfig, index: int, weights: Weights) -> LinearWeights:
    """The separately stored q, k and v projections of a layer, fused: [(H + 2G) * D, d]."""
    name, spec = f"layers.{index}.self_attn", config.attention[index]
    heads = {"q_proj": spec.n_heads, "k_proj": spec.n_kv_heads, "v_proj": spec.n_kv_heads}
    return LinearWeights.fuse(
        *(
            LinearWeights.take(
                weights, f"{name}.{part}", n * spec.d_head, config.d_model, bias=config.qkv_bias
            )
            for part, n in heads.items()
        )
    )


def gated_mlp(
    config: ModelConfig, index: int, weights: Weights, make_linear: MakeLinear
) -> GatedMLP:
    """The gated MLP of a layer, in the names Llama and Gemma share."""
    name, d, f = f"layers.{index}.mlp", config.d_model, config.d_mlp
    gate = LinearWeights.take(weights, f"{name}.gate_proj", f, d, bias=config.mlp_bias)
    up = LinearWeights.take(weights, f"{name}.up_proj", f, d, bias=config.mlp_bias)
    down = LinearWeights.take(weights, f"{name}.down_proj", d, f, bias=config.mlp_bias)
    return GatedMLP(gate, up, down, Activation(config.activation), make_linear)
