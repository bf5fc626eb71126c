"""ModernBERT (Warner et al. 2024, arXiv:2412.13663).

An encoder built like a Llama: norms before each half, rotary positions, a gated MLP. Layers look
at everything or at a window around each row. Checkpoint names are Hugging Face's; the head that
guesses masked words is left aside.
"""

from __future__ import annotations

from torch import Tensor

from headstream.model.attention.base import Attend
from headstream.model.config import ModelConfig
from headstream.model.families.base import run_layers
from headstream.model.kernels import Kernels
from headstream.model.kernels.turn_heads import RopeTable, Turn
from headstream.model.layers.embedding import Embedding
from headstream.model.layers.linear import LinearWeights
from headstream.model.layers.mlp import GatedMLP
from headstream.model.layers.norm import layer_norm_affine
from headstream.model.layers.qkv import QKV
from headstream.model.layers.rope import rope_tables
from headstream.model.probe import Probe
from headstream.model.weights import Weights

_HEADS = ("head.", "decoder.")


class ModernBertModel:
    """ids -> residual stream; see ``families.base.Model``."""

    unembed = None

    def __init__(self, config: ModelConfig, weights: Weights, kernels: Kernels) -> None:
        self.config = config
        words = weights.take("embeddings.tok_embeddings.weight", (config.d_vocab, config.d_model))
        self._embed = Embedding(words)
        self._embed_norm = layer_norm_affine(config, weights, "embeddings.norm")
        ropes = rope_tables(config, words.device)
        self._layers = [
            ModernBertLayer(config, index, weights, rope, kernels)
            for index, rope in enumerate(ropes)
        ]
        self._norm = layer_norm_affine(config, weights, "final_norm")
        self._layer_norm = kernels.layer_norm
        for name in _HEADS:
            weights.leave(name)

    def static_embeddings(self, input_ids: Tensor) -> Tensor:
        """Rows of E [n, d] for ``input_ids`` int64 [n], not normed."""
        return self._embed(input_ids)

    def forward(self, input_ids: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> Tensor:
        """Packed rows int64 [N] -> residual stream [N, d] before the final norm."""
        words = probe("embed", self._embed(input_ids))  # [N, d]
        resid = self._layer_norm(words, self._embed_norm)  # [N, d]
        return run_layers(self._layers, resid, positions, attend, probe)

    def final_norm(self, resid: Tensor) -> Tensor:
        """Rows [R, d] -> [R, d]."""
        return self._layer_norm(resid, self._norm)


class ModernBertLayer:
    """resid += attention(norm(resid)); resid += mlp(norm(resid)). The first norms one time less."""

    def __init__(
        self, config: ModelConfig, index: int, weights: Weights, rope: RopeTable, kernels: Kernels
    ) -> None:
        name, spec, d, f = f"layers.{index}", config.attention[index], config.d_model, config.d_mlp
        self._index = index
        self._kernels = kernels
        self._norm_attention = None  # the first layer's input is normed already
        if index > 0:
            self._norm_attention = layer_norm_affine(config, weights, f"{name}.attn_norm")
        qkv = LinearWeights.take(weights, f"{name}.attn.Wqkv", 3 * d, d, bias=config.qkv_bias)
        self._qkv = QKV(qkv, spec, Turn(rope=rope), kernels)
        out = LinearWeights.take(weights, f"{name}.attn.Wo", d, d, bias=config.o_bias)
        self._out = kernels.linear(out.weight, out.bias)
        self._norm_mlp = layer_norm_affine(config, weights, f"{name}.mlp_norm")
        both = LinearWeights.take(weights, f"{name}.mlp.Wi", 2 * f, d, bias=config.mlp_bias)
        gate, up = both.split(f)
        down = LinearWeights.take(weights, f"{name}.mlp.Wo", d, f, bias=config.mlp_bias)
        self._mlp = GatedMLP(gate, up, down, config.activation, kernels)

    def __call__(self, resid: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> None:
        """Add to ``resid`` [N, d] in place."""
        x = resid
        if self._norm_attention is not None:
            x = self._kernels.layer_norm(resid, self._norm_attention)
        q, k, v = self._qkv(x, positions)  # [N, H, D] each
        z = attend(self._index, q, k, v).flatten(1)  # [N, H * D]
        self._kernels.add(resid, probe("attn_out", self._out(z)), None)
        probe("resid_mid", resid)
        x = self._kernels.layer_norm(resid, self._norm_mlp)
        self._kernels.add(resid, probe("mlp_out", self._mlp(x, probe)), None)
