"""Gemma 3, text only (arXiv:2503.19786).

A Llama whose layers norm before and after each half, whose RMSNorm gain is 1 + w, whose embedding
is scaled by sqrt(d), and whose layers look either at a sliding window (with a low rotary base) or
at everything (with a high one). Checkpoint names are Hugging Face's ``Gemma3ForCausalLM``.
"""

from __future__ import annotations

from torch import Tensor

from headstream.model.attention.base import Attend
from headstream.model.config import ModelConfig
from headstream.model.families.base import run_layers
from headstream.model.families.llama import gated_mlp, qkv_weights
from headstream.model.kernels import Kernels
from headstream.model.kernels.norm import Gain
from headstream.model.kernels.turn_heads import RopeTable, Turn
from headstream.model.layers.adder import Adder
from headstream.model.layers.embedding import Embedding
from headstream.model.layers.linear import LinearWeights
from headstream.model.layers.norm import rms_gain
from headstream.model.layers.qkv import QKV
from headstream.model.layers.rope import rope_tables
from headstream.model.layers.unembedding import Unembedding
from headstream.model.probe import Probe
from headstream.model.weights import Weights


class Gemma3Model:
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
            Gemma3Layer(config, index, weights, rope, kernels) for index, rope in enumerate(ropes)
        ]
        self._norm = _gain(config, weights, "norm", config.d_model)
        self._rms_norm = kernels.rms_norm
        self.unembed = Unembedding.take(config, weights, self._embed, kernels)

    def static_embeddings(self, input_ids: Tensor) -> Tensor:
        """Rows of E [n, d] for ``input_ids`` int64 [n], scaled by sqrt(d)."""
        return self._embed(input_ids)

    def forward(self, input_ids: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> Tensor:
        """Packed rows int64 [N] -> residual stream [N, d] before the final norm."""
        resid = probe("embed", self._embed(input_ids))  # [N, d]
        return run_layers(self._layers, resid, positions, attend, probe)

    def final_norm(self, resid: Tensor) -> Tensor:
        """Rows [R, d] -> [R, d]."""
        return self._rms_norm(resid, self._norm)


class Gemma3Layer:
    """resid += norm(attention(norm(resid))); resid += norm(mlp(norm(resid)))."""

    def __init__(
        self, config: ModelConfig, index: int, weights: Weights, rope: RopeTable, kernels: Kernels
    ) -> None:
        name, spec, d = f"layers.{index}", config.attention[index], config.d_model
        self._index = index
        self._kernels = kernels
        self._norm_attention = _gain(config, weights, f"{name}.input_layernorm", d)
        turn = Turn(
            q_gain=_gain(config, weights, f"{name}.self_attn.q_norm", spec.d_head),
            k_gain=_gain(config, weights, f"{name}.self_attn.k_norm", spec.d_head),
            rope=rope,
        )
        self._qkv = QKV(qkv_weights(config, index, weights), spec, turn, kernels)
        width = spec.n_heads * spec.d_head
        out = LinearWeights.take(weights, f"{name}.self_attn.o_proj", d, width, bias=config.o_bias)
        self._out = kernels.closing(out)
        norm_attended = _gain(config, weights, f"{name}.post_attention_layernorm", d)
        self._attended = Adder("attn_out", norm_attended, kernels)
        self._norm_mlp = _gain(config, weights, f"{name}.pre_feedforward_layernorm", d)
        self._mlp = gated_mlp(config, index, weights, kernels)
        norm_mlped = _gain(config, weights, f"{name}.post_feedforward_layernorm", d)
        self._mlped = Adder("mlp_out", norm_mlped, kernels)

    def __call__(self, resid: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> None:
        """Add to ``resid`` [N, d] in place."""
        x = self._kernels.rms_norm(resid, self._norm_attention)
        q, k, v = self._qkv(x, positions)  # [N, H, D], [N, G, D], [N, G, D]
        z = attend(self._index, q, k, v).flatten(1)  # [N, H * D]
        x = self._attended.add_norm(resid, self._out(z), self._norm_mlp, probe)
        self._mlped.add(resid, self._mlp(x, probe), probe)


def _gain(config: ModelConfig, weights: Weights, name: str, width: int) -> Gain:
    return rms_gain(config, weights, name, width, plus_one=True)
