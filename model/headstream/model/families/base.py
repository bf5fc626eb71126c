"""What every model family is to the runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from headstream.model.attention.base import Attend
from headstream.model.config import ModelConfig
from headstream.model.layers.unembedding import Unembedding
from headstream.model.probe import Probe


class Model(Protocol):
    """Static embeddings, a residual stream that layers add to, and mostly an unembedding."""

    config: ModelConfig

    @property
    def unembed(self) -> Unembedding | None:
        """Logits of rows behind the final norm; None: the model gives vectors only."""
        ...

    def static_embeddings(self, input_ids: Tensor) -> Tensor:
        """Rows of E [n, d] for ``input_ids`` int64 [n], scaled as the layers see them."""
        ...

    def forward(self, input_ids: Tensor, positions: Tensor, attend: Attend, probe: Probe) -> Tensor:
        """Run all layers over the packed rows.

        ``input_ids``, ``positions``: int64 [N]. ``probe`` sees layer 0 (the embedding output) to L
        (after the last layer) of the stream, and every site (``headstream.model.sites``) but
        ln_final. Returns the residual stream [N, d], before the final norm.
        """
        ...

    def final_norm(self, resid: Tensor) -> Tensor:
        """The final norm of rows [R, d] -> [R, d]."""
        ...


Layer = Callable[[Tensor, Tensor, Attend, Probe], None]
"""(resid [N, d], positions int64 [N], attend, probe): adds to ``resid`` in place."""


def run_layers(
    layers: Sequence[Layer], resid: Tensor, positions: Tensor, attend: Attend, probe: Probe
) -> Tensor:
    """Run ``layers`` over ``resid`` [N, d] in place, which ``probe`` sees before and after each."""
    attend = probe.around(attend)
    probe.record(0, resid)
    for index, layer in enumerate(layers):
        probe.enter(index + 1)
        probe("resid_pre", resid)
        layer(resid, positions, attend, probe)
        probe("resid_post", resid)
        probe.record(index + 1, resid)
    return resid
