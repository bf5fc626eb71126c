"""BERT and its kin (Devlin et al. 2019, arXiv:1810.04805): encoders that norm behind each half.

One family, told apart by the config alone: BERT, RoBERTa and XLM-RoBERTa (whose positions begin
further on in the table, arXiv:1907.11692), DistilBERT (no token types, arXiv:1910.01108).
Checkpoint names are Hugging Face's. There is no unembedding: what a checkpoint keeps for guessing
masked words, or for comparing two sentences, is left aside.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from headstream.model.probe import Probe
from headstream.model.weights import Weights

_HEADS = (
    "pooler.",
    "cls.",
    "lm_head.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
)
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


@dataclass(frozen=True, slots=True)
class _Names:
    """What a checkpoint calls the parts of a layer."""

    layer: str
    qkv: tuple[str, str, str]
    out: str
    norm_attention: str
    up: str
    down: str
    norm_mlp: str


_BERT = _Names(
    layer="encoder.layer",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    out="attention.output.dense",
    norm_attention="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    norm_mlp="output.LayerNorm",
)
_DISTILBERT = _Names(
    layer="layer",
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    out="attention.out_lin",
    norm_attention="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    norm_mlp="output_layer_norm",
)


class BertModel:
    """ids + positions -> residual stream; see ``families.base.Model``."""

    unembed = None

    def __init__(self, config: ModelConfig, weights: Weights, kernels: Kernels) -> None:
        self.config = config
        words = weights.take("embeddings.word_embeddings.weight", (config.d_vocab, config.d_model))
        self._embed = Embedding(words)
        self._positions = _positions(config, weights)  # float32 [positions, d]
        self._norm = layer_norm_affine(config, weights, "embeddings.LayerNorm")
        self._layer_norm = kernels.layer_norm
        self._layers = [
            BertLayer(config, index, weights, kernels) for index in range(config.n_layers)
        ]
        for name in (*_HEADS, *_BUFFERS):
            weights.leave(name)

    def static_embeddings(self, input_ids: Tensor) -> Tensor:
        """Rows of E [n, d] for ``input_ids`` int64 [n], without positions and not normed."""
        return self._embed(input_ids)

    def forward(self, input_ids: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> Tensor:
        """Packed rows int64 [N] -> residual stream [N, d]; each layer's output is normed."""
        words = probe("embed", self._embed(input_ids))  # [N, d]
        places = self._positions.index_select(0, positions)  # float32 [N, d]
        total = words + probe("pos_embed", places)  # float32 [N, d]
        resid = self._layer_norm(total, self._norm).to(words.dtype)  # [N, d]
        return run_layers(self._layers, resid, positions, attend, probe)

    def final_norm(self, resid: Tensor) -> Tensor:
        """Rows [R, d] as they are: the last layer has normed them."""
        return resid


class BertLayer:
    """resid = norm(resid + attention(resid)); resid = norm(resid + mlp(resid)).

    The sites resid_mid and resid_post are the stream behind these norms, as the next half reads it.
    """

    def __init__(self, config: ModelConfig, index: int, weights: Weights, kernels: Kernels) -> None:
        d, spec = config.d_model, config.attention[index]
        names = _DISTILBERT if config.architecture.startswith("DistilBert") else _BERT
        name = f"{names.layer}.{index}"

        def linear(part: str, out: int, width: int) -> LinearWeights:
            return LinearWeights.take(weights, f"{name}.{part}", out, width, bias=True)

        self._index = index
        self._post_norm = kernels.post_norm
        qkv = LinearWeights.fuse(*(linear(part, d, d) for part in names.qkv))
        self._qkv = QKV(qkv, spec, None, kernels)
        out = linear(names.out, d, d)
        self._out = kernels.linear(out.weight, out.bias)
        self._norm_attention = layer_norm_affine(config, weights, f"{name}.{names.norm_attention}")
        self._mlp = MLP(
            linear(names.up, config.d_mlp, d),
            linear(names.down, d, config.d_mlp),
            config.activation,
            kernels,
        )
        self._norm_mlp = layer_norm_affine(config, weights, f"{name}.{names.norm_mlp}")

    def __call__(self, resid: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> None:
        """Change ``resid`` [N, d] in place."""
        q, k, v = self._qkv(resid, positions)  # [N, H, D] each
        z = attend(self._index, q, k, v).flatten(1)  # [N, H * D]
        self._post_norm(resid, probe("attn_out", self._out(z)), self._norm_attention)
        probe("resid_mid", resid)
        self._post_norm(resid, probe("mlp_out", self._mlp(resid, probe)), self._norm_mlp)


def _positions(config: ModelConfig, weights: Weights) -> Tensor:
    """What is added to a word at each position, float32 [positions, d]: the type comes with it."""
    d, offset = config.d_model, config.position_offset
    name = "embeddings.position_embeddings.weight"
    stored = weights.take(name, (config.max_model_len + offset, d))
    positions = stored[offset:].float()
    if config.n_token_types:
        types = weights.take("embeddings.token_type_embeddings.weight", (config.n_token_types, d))
        positions = positions + types[0].float()
    return positions
