"""GPT-2 from its equations: float64 numpy, one token and one head at a time, no packing.

Independent of both the packed model and transformers; only the checkpoint's names are shared.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from headstream.model.loading.load import load_model
from model_reference import PLAIN_KERNELS, run_packed

Vector = NDArray[np.float64]


class TextbookGPT2:
    """x_i = E[w_i] + P[i]; each layer adds attention(norm(x)), then mlp(norm(x))."""

    def __init__(self, weights: dict[str, Any], n_layers: int, n_heads: int) -> None:
        self.w: dict[str, Vector] = {
            name.removeprefix("transformer."): w.astype(float) for name, w in weights.items()
        }
        self.n_layers, self.n_heads = n_layers, n_heads

    def logits(self, ids: list[int]) -> list[Vector]:
        """Logits [V] after each token."""
        stream = [self.w["wte.weight"][w] + self.w["wpe.weight"][i] for i, w in enumerate(ids)]
        for layer in range(self.n_layers):
            stream = self.layer(f"h.{layer}", stream)
        return [self.w["wte.weight"] @ self.norm("ln_f", x) for x in stream]

    def layer(self, name: str, stream: list[Vector]) -> list[Vector]:
        """Each token may look at itself and at those before it."""
        qkv = [self.linear(f"{name}.attn.c_attn", self.norm(f"{name}.ln_1", x)) for x in stream]
        after = []
        for i, x in enumerate(stream):
            z = np.concatenate([self.head(h, qkv[: i + 1]) for h in range(self.n_heads)])
            mid = x + self.linear(f"{name}.attn.c_proj", z)
            hidden = self.linear(f"{name}.mlp.c_fc", self.norm(f"{name}.ln_2", mid))
            after.append(mid + self.linear(f"{name}.mlp.c_proj", gelu(hidden)))
        return after

    def head(self, h: int, qkv: list[Vector]) -> Vector:
        """Scaled dot products of the last token with all, softmax, the weighted sum of values."""
        d = len(qkv[0]) // 3
        width = d // self.n_heads
        own = slice(h * width, (h + 1) * width)
        q = qkv[-1][:d][own]
        scores = [q @ row[d : 2 * d][own] / math.sqrt(width) for row in qkv]
        exps = [math.exp(score - max(scores)) for score in scores]
        values = [row[2 * d :][own] for row in qkv]
        weighted = [e / sum(exps) * v for e, v in zip(exps, values, strict=True)]
        total: Vector = np.sum(weighted, axis=0)
        return total

    def linear(self, name: str, x: Vector) -> Vector:
        """Stored [in, out]."""
        product: Vector = x @ self.w[f"{name}.weight"]
        return product + self.w[f"{name}.bias"]

    def norm(self, name: str, x: Vector) -> Vector:
        """Layer normalisation with gain and bias."""
        centred = x - x.mean()
        normed = centred / math.sqrt((centred**2).mean() + 1e-5)
        scaled: Vector = normed * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]
        return scaled


def gelu(x: Vector) -> Vector:
    """The tanh approximation GPT-2 was trained with."""
    gate: Vector = 1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * gate


def test_packed_gpt2_is_the_textbook_gpt2(make_checkpoint: Any) -> None:
    directory, _ = make_checkpoint(
        "gpt2", vocab_size=50, n_embd=24, n_layer=2, n_head=3, n_positions=16, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    textbook = TextbookGPT2(load_file(directory / "model.safetensors"), n_layers=2, n_heads=3)
    sequences = [[5, 17, 3, 3, 49], [0], [8, 2, 30]]
    runs = run_packed(load_model(directory, torch.float32, PLAIN_KERNELS), sequences)
    for ids, run in zip(sequences, runs, strict=True):
        wanted = np.stack(textbook.logits(ids))
        np.testing.assert_allclose(run.logits.numpy(), wanted, atol=1e-5, rtol=1e-5)
