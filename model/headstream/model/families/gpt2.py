"""GPT-2 (Radford et al. 2019): the textbook decoder, learned absolute positions, LayerNorm, GELU.

Checkpoint names and shapes are Hugging Face's ``GPT2LMHeadModel``, whose linears are stored
transposed, [in, out].
"""

from __future__ import annotations

import torch
from torch import Tensor

from headstream.model.attention.base import Attend
from headstream.model.config import ModelConfig
from headstream.model.families.base import run_layers
from headstream.model.kernels import Kernels
from headstream.model.layers.embedding import Embedding
from headstream.model.layers.linear import LinearWeights
from headstream.model.layers.mlp import MLP
from headstream.model.layers.norm import layer_norm_affine
from headstream.model.layers.qkv import QKV
from headstream.model.layers.unembedding import Unembedding
from headstream.model.probe import Probe
from headstream.model.weights import Weights


class GPT2Model:
    """ids + positions -> residual stream -> logits; see ``families.base.Model``."""

    def __init__(self, config: ModelConfig, weights: Weights, kernels: Kernels) -> None:
        d = config.d_model
        self.config = config
        self._embed = Embedding(weights.take("wte.weight", (config.d_vocab, d)))
        self._positions = Embedding(weights.take("wpe.weight", (config.max_model_len, d)))
        self._layers = [
            GPT2Layer(config, index, weights, kernels) for index in range(config.n_layers)
        ]
        self._norm = layer_norm_affine(config, weights, "ln_f")
        self._layer_norm = kernels.layer_norm
        self.unembed = Unembedding.take(config, weights, self._embed, kernels)

    def static_embeddings(self, input_ids: Tensor) -> Tensor:
        """Rows of E [n, d] for ``input_ids`` int64 [n], without positions."""
        return self._embed(input_ids)

    def forward(self, input_ids: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> Tensor:
        """Packed rows int64 [N] -> residual stream [N, d] before the final norm."""
        words = probe("embed", self._embed(input_ids))  # [N, d]
        resid = words + probe("pos_embed", self._positions(positions))  # [N, d]
        return run_layers(self._layers, resid, positions, attend, probe)

    def final_norm(self, resid: Tensor) -> Tensor:
        """Rows [R, d] -> [R, d]."""
        return self._layer_norm(resid, self._norm)


class GPT2Layer:
    """resid += attention(norm(resid)); resid += mlp(norm(resid))."""

    def __init__(self, config: ModelConfig, index: int, weights: Weights, kernels: Kernels) -> None:
        d, name = config.d_model, f"h.{index}"
        self._index = index
        self._kernels = kernels
        self._norm_attention = layer_norm_affine(config, weights, f"{name}.ln_1")
        qkv = _transposed(weights, f"{name}.attn.c_attn", 3 * d, d)
        self._qkv = QKV(qkv, config.attention[index], None, kernels)
        out = _transposed(weights, f"{name}.attn.c_proj", d, d)
        self._out = kernels.linear(out.weight, out.bias)
        self._norm_mlp = layer_norm_affine(config, weights, f"{name}.ln_2")
        self._mlp = MLP(
            _transposed(weights, f"{name}.mlp.c_fc", config.d_mlp, d),
            _transposed(weights, f"{name}.mlp.c_proj", d, config.d_mlp),
            config.activation,
            kernels,
        )

    def __call__(self, resid: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> None:
        """Add to ``resid`` [N, d] in place."""
        x = self._kernels.layer_norm(resid, self._norm_attention)
        q, k, v = self._qkv(x, positions)  # [N, H, D] each
        z = attend(self._index, q, k, v).flatten(1)  # [N, H * D]
        self._kernels.add(resid, probe("attn_out", self._out(z)), None)
        probe("resid_mid", resid)
        x = self._kernels.layer_norm(resid, self._norm_mlp)
        self._kernels.add(resid, probe("mlp_out", self._mlp(x, probe)), None)


def _transposed(weights: Weights, name: str, out: int, width: int) -> LinearWeights:
    stored = weights.take(f"{name}.weight", (width, out))
    bias = weights.take(f"{name}.bias", (out,))
    return LinearWeights(torch.transpose(stored, 0, 1).contiguous(), bias)
