"""The simplest attention that can be right, and a packed run of a model over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from headstream.model.attention.base import AttentionSpec
from headstream.model.batch import FINAL
from headstream.model.families.base import Model
from headstream.model.kernels import TORCH_KERNELS
from headstream.model.kernels.linear import Linear, compose_activated, compose_gated
from headstream.model.kernels.unembed import make_unembed_torch
from headstream.model.layers.linear import LinearWeights
from headstream.model.probe import Probe


def plain_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """A linear without any packing."""
    return lambda x: F.linear(x, weight, bias)


def plain_activated(weights: LinearWeights, activation: str) -> Linear:
    """The activation over a linear without any packing."""
    return compose_activated(weights, activation, plain_linear, TORCH_KERNELS.gate)


def plain_gated(gate: LinearWeights, up: LinearWeights, activation: str) -> Linear:
    """The gate over linears without any packing."""
    return compose_gated(gate, up, activation, plain_linear, TORCH_KERNELS.gate)


PLAIN_KERNELS = replace(
    TORCH_KERNELS,
    linear=plain_linear,
    activated=plain_activated,
    gated=plain_gated,
    unembed=partial(make_unembed_torch, make_linear=plain_linear),
)
"""Nothing but public operators of torch."""


@dataclass(frozen=True)
class DenseAttention:
    """Attends over the whole packed matrix at once, masked by sequence, position and window."""

    specs: Sequence[AttentionSpec]  # [L]
    lengths: Sequence[int]  # [S]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [N, H, D], k, v [N, G, D] -> z [N, H, D]."""
        spec = self.specs[layer]
        group = spec.n_heads // spec.n_kv_heads
        keys, values = (x.repeat_interleave(group, dim=1) for x in (k, v))  # [N, H, D]
        scores = torch.einsum("ihd,jhd->hij", q.float(), keys.float()) * spec.scale
        weights = scores.masked_fill(~self._visible(spec), -torch.inf).softmax(-1)
        return torch.einsum("hij,jhd->ihd", weights, values.float()).to(q.dtype)

    def _visible(self, spec: AttentionSpec) -> Tensor:
        sequence = torch.repeat_interleave(torch.tensor(self.lengths))  # [N]
        row = torch.arange(len(sequence))
        back = row[:, None] - row[None, :]  # how far behind the query the key is
        visible = sequence[:, None] == sequence[None, :]  # [N, N]
        if spec.causal:
            visible &= back >= 0
        return visible if spec.window is None else visible & (back.abs() < spec.window)


@dataclass(frozen=True)
class PackedRun:
    """What one sequence got out of a packed run."""

    logits: Tensor  # [n, V]; V is 0 where there is no unembedding
    resid: list[Tensor]  # [L + 1] of [n, d]
    final: Tensor  # [n, d]


def run_packed(model: Model, sequences: Sequence[Sequence[int]]) -> list[PackedRun]:
    """Run all sequences in one matrix and cut the results apart again."""
    lengths = [len(ids) for ids in sequences]
    input_ids = torch.tensor([token for ids in sequences for token in ids])  # [N]
    positions = torch.cat([torch.arange(n) for n in lengths])  # [N]
    n_layers = model.config.n_layers
    probe = Probe({layer: torch.arange(len(input_ids)) for layer in (*range(n_layers + 1), FINAL)})
    with torch.inference_mode():
        resid = model.forward(
            input_ids, positions, DenseAttention(model.config.attention, lengths), probe
        )
        final = model.final_norm(resid)
        logits = final[:, :0] if model.unembed is None else model.unembed(final)
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    return [
        PackedRun(
            logits[a:b], [probe.rows[layer][a:b] for layer in range(n_layers + 1)], final[a:b]
        )
        for a, b in pairwise(bounds)
    ]
