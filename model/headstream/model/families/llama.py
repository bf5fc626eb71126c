"""Llama and its kin: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

One family, told apart by the config alone: Llama (Touvron et al. 2023, arXiv:2302.13971), Mistral
(sliding window, arXiv:2310.06825), Qwen2 (bias on q, k, v, arXiv:2407.10671), Qwen3 (norm on the
heads of q and k, arXiv:2505.09388). Checkpoint names are Hugging Face's.
"""

from __future__ import annotations

from torch import Tensor

from headstream.model.attention.base import Attend
from headstream.model.config import ModelConfig
from headstream.model.families.base import run_layers
from headstream.model.kernels import Kernels
from headstream.model.kernels.turn_heads import RopeTable, Turn
from headstream.model.layers.adder import Adder
from headstream.model.layers.embedding import Embedding
from headstream.model.layers.linear import LinearWeights
from headstream.model.layers.mlp import GatedMLP
from headstream.model.layers.norm import rms_gain
from headstream.model.layers.qkv import QKV
from headstream.model.layers.rope import rope_tables
from headstream.model.layers.unembedding import Unembedding
from headstream.model.probe import Probe
from headstream.model.weights import Weights


class LlamaModel:
    """ids -> residual stream -> logits; see ``families.base.Model``."""

    def __init__(self, config: ModelConfig, weights: Weights, kernels: Kernels) -> None:
        self.config = config
        self._embed = Embedding(
            weights.take("embed_tokens.weight", (config.d_vocab, config.d_model)),
            config.embed_scale,
            kernels.look_up,
        )
        ropes = rope_tables(config, self._embed.weight.device)
        self._layers = [
            LlamaLayer(config, index, weights, rope, kernels) for index, rope in enumerate(ropes)
        ]
        self._norm = rms_gain(config, weights, "norm", config.d_model)
        self._rms_norm = kernels.rms_norm
        self.unembed = Unembedding.take(config, weights, self._embed, kernels)

    def static_embeddings(self, input_ids: Tensor) -> Tensor:
        """Rows of E [n, d] for ``input_ids`` int64 [n]."""
        return self._embed(input_ids)

    def forward(self, input_ids: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> Tensor:
        """Packed rows int64 [N] -> residual stream [N, d] before the final norm."""
        resid = probe("embed", self._embed(input_ids))  # [N, d]
        return run_layers(self._layers, resid, positions, attend, probe)

    def final_norm(self, resid: Tensor) -> Tensor:
        """Rows [R, d] -> [R, d]."""
        return self._rms_norm(resid, self._norm)


class LlamaLayer:
    """resid += attention(norm(resid)); resid += mlp(norm(resid))."""

    def __init__(
        self, config: ModelConfig, index: int, weights: Weights, rope: RopeTable, kernels: Kernels
    ) -> None:
        name, spec, d = f"layers.{index}", config.attention[index], config.d_model
        self._index = index
        self._kernels = kernels
        self._norm_attention = rms_gain(config, weights, f"{name}.input_layernorm", d)
        turn = Turn(rope=rope)
        if config.qk_norm:
            q_gain, k_gain = (
                rms_gain(config, weights, f"{name}.self_attn.{head}_norm", spec.d_head)
                for head in ("q", "k")
            )
            turn = Turn(q_gain, k_gain, rope)
        self._qkv = QKV(qkv_weights(config, index, weights), spec, turn, kernels)
        width = spec.n_heads * spec.d_head
        out = LinearWeights.take(weights, f"{name}.self_attn.o_proj", d, width, bias=config.o_bias)
        self._out = kernels.closing(out)
        self._norm_mlp = rms_gain(config, weights, f"{name}.post_attention_layernorm", d)
        self._attended = Adder("attn_out", None, kernels)
        self._mlp = gated_mlp(config, index, weights, kernels)
        self._mlped = Adder("mlp_out", None, kernels)

    def __call__(self, resid: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> None:
        """Add to ``resid`` [N, d] in place."""
        x = self._kernels.rms_norm(resid, self._norm_attention)
        q, k, v = self._qkv(x, positions)  # [N, H, D], [N, G, D], [N, G, D]
        z = attend(self._index, q, k, v).flatten(1)  # [N, H * D]
        x = self._attended.add_norm(resid, self._out(z), self._norm_mlp, probe)
        self._mlped.add(resid, self._mlp(x, probe), probe)


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


def gated_mlp(config: ModelConfig, index: int, weights: Weights, kernels: Kernels) -> GatedMLP:
    """The gated MLP of a layer, in the names Llama and Gemma share."""
    name, d, f = f"layers.{index}.mlp", config.d_model, config.d_mlp
    gate = LinearWeights.take(weights, f"{name}.gate_proj", f, d, bias=config.mlp_bias)
    up = LinearWeights.take(weights, f"{name}.up_proj", f, d, bias=config.mlp_bias)
    down = LinearWeights.take(weights, f"{name}.down_proj", d, f, bias=config.mlp_bias)
    return GatedMLP(gate, up, down, config.activation, kernels)
