"""Gemma 3, text only (arXiv:2503.19786).

A Llama whose layers norm before and after each half, whose RMSNorm gain is 1 + w, whose embedding
is scaled by sqrt(d), and whose layers look either at a sliding window (with a low rotary base) or
at everything (with a high one). Checkpoint names are Hugging Face's ``Gemma3ForCausalLM``.
"""

from __future__ import annotations

from torch import Tensor

from headstream.model.attention.base import Attend
from headstream.model.batch import Taps
from headstream.model.config import ModelConfig
from headstream.model.families.base import MakeLinear
from headstream.model.families.llama import gated_mlp, qkv_weights
from headstream.model.layers.embedding import Embedding
from headstream.model.layers.linear import LinearWeights
from headstream.model.layers.norm import GemmaRMSNorm
from headstream.model.layers.qkv import QKV
from headstream.model.layers.rope import Rope, Rotation, rotate
from headstream.model.layers.unembedding import Unembedding
from headstream.model.weights import Weights


class Gemma3Model:
    """ids -> residual stream -> logits; see ``families.base.Model``."""

    def __init__(self, config: ModelConfig, weights: Weights, make_linear: MakeLinear) -> None:
        self.config = config
        self._embed = Embedding(
            weights.take("embed_tokens.weight", (config.d_vocab, config.d_model)),
            config.embed_scale,
        )
        self._rope = Rope(config, self._embed.weight.device)
        self._layers = [
            Gemma3Layer(config, index, weights, make_linear) for index in range(config.n_layers)
        ]
        self._norm = _norm(config, weights, "norm", config.d_model)
        self._unembed = Unembedding.take(config, weights, self._embed, make_linear)

    def static_embeddings(self, input_ids: Tensor) -> Tensor:
        """Rows of E [n, d] for ``input_ids`` int64 [n], scaled by sqrt(d)."""
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


class Gemma3Layer:
    """resid += norm(attention(norm(resid))); resid += norm(mlp(norm(resid)))."""

    def __init__(
        self, config: ModelConfig, index: int, weights: Weights, make_linear: MakeLinear
    ) -> None:
        name, spec, d = f"layers.{index}", config.attention[index], config.d_model
        self._index = index
        self._norm_attention = _norm(config, weights, f"{name}.input_layernorm", d)
        self._qkv = QKV(qkv_weights(config, index, weights), spec, make_linear)
        self._norm_q = _norm(config, weights, f"{name}.self_attn.q_norm", spec.d_head)
        self._norm_k = _norm(config, weights, f"{name}.self_attn.k_norm", spec.d_head)
        width = spec.n_heads * spec.d_head
        out = LinearWeights.take(weights, f"{name}.self_attn.o_proj", d, width, bias=config.o_bias)
        self._out = make_linear(out.weight, out.bias)
        self._norm_attended = _norm(config, weights, f"{name}.post_attention_layernorm", d)
        self._norm_mlp = _norm(config, weights, f"{name}.pre_feedforward_layernorm", d)
        self._mlp = gated_mlp(config, index, weights, make_linear)
        self._norm_mlped = _norm(config, weights, f"{name}.post_feedforward_layernorm", d)

    def __call__(self, resid: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """[N, d] -> [N, d]."""
        q, k, v = self._qkv(self._norm_attention(resid))  # [N, H, D], [N, G, D], [N, G, D]
        q, k = rotate(self._norm_q(q), rotation), rotate(self._norm_k(k), rotation)
        z = attend(self._index, q, k, v).flatten(1)  # [N, H * D]
        resid = resid + self._norm_attended(self._out(z))
        return resid + self._norm_mlped(self._mlp(self._norm_mlp(resid)))


def _norm(config: ModelConfig, weights: Weights, name: str, width: int) -> GemmaRMSNorm:
    return GemmaRMSNorm(weights.take(f"{name}.weight", (width,)), config.norm_eps)
