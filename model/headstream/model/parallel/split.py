"""What of a model each rank has: whole heads, a part of the MLPs, a part of the vocabulary.

Megatron's cut (Shoeybi et al. 2019, arXiv:1909.08053): q, k, v, gate and up by their outputs, o and
down by their inputs, so that a layer needs two sums over the ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from headstream.model.config import ModelConfig
from headstream.model.errors import UnsupportedModelError

FAMILIES = ("llama", "gemma3")
"""The families that can be split."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which of how many ranks this is."""

    rank: int
    size: int

    def part(self, total: int) -> range:
        """What this rank has of ``total`` things that lie side by side."""
        return self.parts(total)[self.rank]

    def parts(self, total: int) -> list[range]:
        """The same of every rank; no two differ by more than one."""
        ends = [total * rank // self.size for rank in range(self.size + 1)]
        return [range(*pair) for pair in pairwise(ends)]

    def kv_heads(self, total: int) -> range:
        """The key/value heads that this rank's query heads look at: with too few, ranks share."""
        if total >= self.size:
            return self.part(total)
        first = self.rank * total // self.size
        return range(first, first + 1)


def check_split(config: ModelConfig, size: int) -> None:
    """Raises UnsupportedModelError: the model cannot be shared by so many ranks."""
    if config.family not in FAMILIES:
        raise UnsupportedModelError(
            f"tensor_parallel is {size}, but a model of family {config.family!r} cannot be split "
            f"(those of {' and '.join(FAMILIES)} can)"
        )
    heads, kv_heads = config.n_heads, config.n_kv_heads
    if heads % size or (kv_heads % size and size % kv_heads) or config.d_mlp % size:
        raise UnsupportedModelError(
            f"tensor_parallel is {size}, but it must divide the model's {heads} heads and its MLP "
            f"width of {config.d_mlp}, and divide its {kv_heads} key/value heads or be a multiple"
        )


def split_config(config: ModelConfig, split: Split) -> ModelConfig:
    """The sizes of one rank's part; those of the stream and the vocabulary stay whole."""
    n_heads = len(split.part(config.n_heads))
    n_kv_heads = len(split.kv_heads(config.n_kv_heads))
    return replace(
        config,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_mlp=len(split.part(config.d_mlp)),
        attention=tuple(
            replace(spec, n_heads=n_heads, n_kv_heads=n_kv_heads) for spec in config.attention
        ),
    )
