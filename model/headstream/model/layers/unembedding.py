"""The unembedding: rows of the last residual stream to logits over the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headstream.model.config import ModelConfig
from headstream.model.errors import CheckpointError
from headstream.model.kernels import Kernels
from headstream.model.kernels.unembed import LogitRows
from headstream.model.layers.embedding import Embedding
from headstream.model.weights import Weights


class Unembedding:
    """U [V, d]: rows [R, d] -> logits float32 [R, V], or what is found in them.

    Sums are never rounded to the weights' dtype: bfloat16 logits tie and misorder (2.8% of the
    largest tokens flip by that rounding alone: ARCHITECTURE.md).
    """

    def __init__(
        self, weight: Tensor, softcap: float | None, kernels: Kernels, d_vocab: int
    ) -> None:
        """``weight``: as ``kernels`` take it, all V rows or one rank's."""
        self.d_vocab = d_vocab
        self._unembed = kernels.unembed(weight, softcap)

    @classmethod
    def take(
        cls, config: ModelConfig, weights: Weights, embedding: Embedding, kernels: Kernels
    ) -> Unembedding | None:
        """Read ``lm_head.weight``, or share E when the config ties them; None: there is none.

        Raises:
            CheckpointError: missing or misshapen, or stored although tied and not equal to E.
        """
        if not config.unembeds:
            return None
        shape = (config.d_vocab, config.d_model)
        weight = embedding.weight
        if not config.tied:
            weight = weights.take("lm_head.weight", shape)
        elif weights.has("lm_head.weight") and not torch.equal(
            weights.take("lm_head.weight", shape), weight
        ):
            raise CheckpointError(
                "lm_head.weight differs from the embedding, but the config ties the two"
            )
        return cls(weight, config.logit_softcap, kernels, config.d_vocab)

    def __call__(self, rows: Tensor) -> Tensor:
        """Normed rows [R, d] -> logits float32 [R, V]."""
        return self.look_through(rows, keep=range(len(rows)), count=1).kept

    def look_through(
        self, rows: Tensor, *, keep: Sequence[int], count: int, targets: Tensor | None = None
    ) -> LogitRows:
        """What is found in the logits of normed rows [R, d]; see :class:`Unembed`."""
        return self._unembed(rows, min(count, self.d_vocab), keep, targets)
