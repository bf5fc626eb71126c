"""The sites of a transformers model, read and changed by hooks while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

Change = Callable[[str, int, Tensor], None]
"""(site, layer, rows [n, ...]): changes the rows in place."""

# Of each family: the layers, and of each site the module in a layer whose input or output it is.
_PLACES: dict[str, dict[str, tuple[str, str]]] = {
    "gpt2": {
        "attn_out": ("attn", "out"),
        "resid_mid": ("ln_2", "in"),
        "mlp_post": ("mlp.c_proj", "in"),
        "mlp_out": ("mlp", "out"),
    },
    "llama": {
        "attn_out": ("self_attn", "out"),
        "resid_mid": ("post_attention_layernorm", "in"),
        "mlp_post": ("mlp.down_proj", "in"),
        "mlp_out": ("mlp", "out"),
    },
    "gemma3_text": {
        "attn_out": ("post_attention_layernorm", "out"),
        "resid_mid": ("pre_feedforward_layernorm", "in"),
        "mlp_post": ("mlp.down_proj", "in"),
        "mlp_out": ("post_feedforward_layernorm", "out"),
    },
    "bert": {
        "attn_out": ("attention.output.dense", "out"),
        "resid_mid": ("attention.output.LayerNorm", "out"),
        "mlp_post": ("output.dense", "in"),
        "mlp_out": ("output.dense", "out"),
    },
    "modernbert": {
        "attn_out": ("attn", "out"),
        "resid_mid": ("mlp_norm", "in"),
        "mlp_post": ("mlp.Wo", "in"),
        "mlp_out": ("mlp", "out"),
    },
}
_LAYERS = {"gpt2": "h", "bert": "encoder.layer"}
_EMBED = {
    "gpt2": "wte",
    "bert": "embeddings.word_embeddings",
    "modernbert": "embeddings.tok_embeddings",
}
_POSITIONS = {"gpt2": "wpe", "bert": "embeddings.position_embeddings"}
_FINAL = {"gpt2": "ln_f", "modernbert": "final_norm"}


class SiteOracle:
    """One model, one text at a time, in float32 with the attention of the formula."""

    def __init__(self, directory: Any) -> None:
        config = transformers.AutoConfig.from_pretrained(directory)
        self._name = config.model_type
        causal = self._name not in {"bert", "modernbert"}
        auto: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
        transformers.AttentionInterface.register("shown", self._attend)
        AttentionMaskInterface.register("shown", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
        self._model = auto.from_pretrained(
            directory, attn_implementation="shown", dtype=torch.float32
        ).eval()
        self._inner = getattr(self._model, self._model.base_model_prefix, self._model)
        self.values: dict[tuple[str, int], Tensor] = {}  # [n, ...]
        self.logits = torch.empty(0)  # [n, V]
        types = getattr(getattr(self._inner, "embeddings", None), "token_type_embeddings", None)
        self._types = torch.zeros(1) if types is None else types.weight[0].detach()
        self._change: Change = _nothing
        self._layer = 0
        self._hook()

    def run(self, ids: list[int], change: Change | None = None) -> SiteOracle:
        """Read a text; :attr:`values` and :attr:`logits` are then those of it."""
        self.values, self._change, self._layer = {}, change or _nothing, 0
        with torch.inference_mode():
            model = self._model if hasattr(self._model, "lm_head") else self._inner
            out = model(torch.tensor([ids]))
        if hasattr(out, "logits"):
            self.logits = out.logits[0]
        return self

    def read(self, resid: Tensor) -> Tensor:
        """What its final norm and unembedding make of rows [n, d] of the stream: [n, V]."""
        with torch.inference_mode():
            norm = self._inner.get_submodule(_FINAL.get(self._name, "norm"))
            logits: Tensor = self._model.lm_head(norm(resid))
        return logits

    def _hook(self) -> None:
        get, name = self._inner.get_submodule, self._name
        layers = get(_LAYERS.get(name, "layers"))
        self._watch(get(_EMBED.get(name, "embed_tokens")), "out", "embed", 0)
        if name in _POSITIONS:
            self._watch(get(_POSITIONS[name]), "out", "pos_embed", 0)
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(lambda *_, number=index + 1: self._enter(number))
            self._watch(layer, "in", "resid_pre", index + 1)
            for site, (module, side) in _PLACES[name].items():
                self._watch(layer.get_submodule(module), side, site, index + 1)
            self._watch(layer, "out", "resid_post", index + 1)
        final = layers[-1] if name == "bert" else get(_FINAL.get(name, "norm"))
        self._watch(final, "out", "ln_final", len(layers))

    def _enter(self, layer: int) -> None:
        self._layer = layer

    def _watch(self, module: Any, side: str, site: str, layer: int) -> None:
        if side == "in":
            module.register_forward_pre_hook(lambda _, args: self._show(site, layer, args[0]))
        else:
            module.register_forward_hook(
                lambda _, __, out: self._show(site, layer, out if torch.is_tensor(out) else out[0])
            )

    def _show(self, site: str, layer: int, x: Tensor) -> None:
        """x [1, n, ...]"""
        self._change(site, layer, x[0])
        self.values[site, layer] = x[0] + self._types if site == "pos_embed" else x[0].clone()

    def _attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """q [1, H, n, D], k and v [1, G, n, D] -> z [1, n, H, D]."""
        for site, x in (("q", query), ("k", key), ("v", value)):
            self._show(site, self._layer, x.transpose(1, 2))
        group = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
        scores = query @ key.transpose(2, 3) * kwargs.get("scaling", query.shape[-1] ** -0.5)
        if mask is not None:
            scores = scores.masked_fill(mask[..., : key.shape[2]] < -1e9, -torch.inf)
        self.values["attn_scores", self._layer] = scores[0].transpose(0, 1)  # [n, H, K]
        weights = scores.softmax(-1)
        self.values["pattern", self._layer] = weights[0].transpose(0, 1)
        z = (weights @ value).transpose(1, 2).contiguous()
        self._show("z", self._layer, z)
        return z, weights


def _nothing(*_: object) -> None:
    """Change nothing."""
