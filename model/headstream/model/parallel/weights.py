"""One rank's part of a checkpoint's tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from headstream.model.config import ModelConfig
from headstream.model.parallel.split import Split
from headstream.model.weights import Part, Weights


class _Cut(NamedTuple):
    axis: int  # of [out, in]
    whole: int  # length of the axis in the checkpoint
    own: range  # of this rank


class SplitWeights:
    """Satisfies ``Weights``, for a family that is built with the sizes of one rank.

    E and U alone are asked for whole, [V, d], and come as the rank's rows of them.
    """

    def __init__(self, weights: Weights, config: ModelConfig, split: Split) -> None:
        """``weights`` and ``config`` of the whole model."""
        self._weights = weights
        self._leads = split.rank == 0
        width = config.d_head
        heads = _Cut(0, config.n_heads * width, _scaled(split.part(config.n_heads), width))
        kv_heads = _Cut(
            0, config.n_kv_heads * width, _scaled(split.kv_heads(config.n_kv_heads), width)
        )
        mlp = _Cut(0, config.d_mlp, split.part(config.d_mlp))
        vocabulary = _Cut(0, config.d_vocab, split.part(config.d_vocab))
        self._cuts = {
            "q_proj": heads,
            "k_proj": kv_heads,
            "v_proj": kv_heads,
            "o_proj": heads._replace(axis=1),
            "gate_proj": mlp,
            "up_proj": mlp,
            "down_proj": mlp._replace(axis=1),
            "embed_tokens": vocabulary,
            "lm_head": vocabulary,
        }

    def has(self, name: str) -> bool:
        """See ``Weights.has``."""
        return self._weights.has(name)

    def take(self, name: str, shape: tuple[int, ...], part: Part | None = None) -> Tensor:
        """See ``Weights.take``; ``shape`` is that of the rank's part, but for E and U."""
        assert part is None, "what is split is not split again"
        *_, layer, _ = name.split(".")
        cut = self._cuts.get(layer)
        if cut is None:
            return self._weights.take(name, shape)
        if cut.axis >= len(shape):  # a bias behind the sum over the ranks: added by one of them
            bias = self._weights.take(name, shape)
            return bias if self._leads else torch.zeros_like(bias)
        whole = (*shape[: cut.axis], cut.whole, *shape[cut.axis + 1 :])
        return self._weights.take(name, whole, Part(cut.axis, cut.own))

    def leave(self, prefix: str) -> None:
        """See ``Weights.leave``."""
        self._weights.leave(prefix)


def _scaled(heads: range, width: int) -> range:
    return range(heads.start * width, heads.stop * width)
