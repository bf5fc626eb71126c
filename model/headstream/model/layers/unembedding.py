"""The unembedding: rows of the last residual stream to logits over the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headstream.model.config import ModelConfig
from headstream.model.errors import CheckpointError
from headstream.model.layers.embedding import Embedding
from headstream.model.weights import Weights

if TYPE_CHECKING:  # families import this file; only the type's name is needed here
    from headstream.model.families.base import MakeLinear


class Unembedding:
    """U [V, d], packed for whole rows of logits and kept plain for single ones."""

    def __init__(self, weight: Tensor, softcap: float | None, make_linear: MakeLinear) -> None:
        self._weight = weight  # [V, d]; E itself when tied, so it costs no second copy
        self._linear = make_linear(weight, None)
        self._softcap = softcap

    @classmethod
    def take(
        cls, config: ModelConfig, weights: Weights, embedding: Embedding, make_linear: MakeLinear
    ) -> Unembedding:
        """Read ``lm_head.weight``, or share E when the config ties them.

        Raises:
            CheckpointError: missing or misshapen, or stored although tied and not equal to E.
        """
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
        return cls(weight, config.logit_softcap, make_linear)

    def __call__(self, rows: Tensor) -> Tensor:
        """Normed rows [R, d] -> logits [R, V] in the weights' dtype."""
        return self._cap(self._linear(rows))

    def rescore(self, rows: Tensor, token_ids: Tensor) -> Tensor:
        """Rows [R, d], ids int64 [R, K] -> logits float32 [R, K], products and sums in float32.

        One row at a time: a row's bits then depend on nothing else, and the gathered weights
        stay at K * d numbers however many rows ask.
        """
        logits = torch.empty(token_ids.shape, dtype=torch.float32, device=rows.device)
        for r in range(rows.shape[0]):
            chosen = torch.index_select(self._weight, 0, token_ids[r]).float()  # [K, d]
            torch.sum(chosen * rows[r].float(), dim=-1, out=logits[r])
        return self._cap(logits)

    def _cap(self, logits: Tensor) -> Tensor:
        if self._softcap is None:
            return logits
        return torch.tanh(logits / self._softcap) * self._softcap
