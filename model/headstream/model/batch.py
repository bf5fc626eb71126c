"""The packed batch: what one step computes, as plain frozen values.

Shape letters, used in every docstring and comment of this package:

    N  tokens (rows) in the step        L  layers
    S  sequences in the step            H  query heads
    B  blocks per sequence              G  key/value heads
    R  rows whose logits are wanted     D  head width
    V  vocabulary                       d  model width

All tokens of all sequences lie end to end in one matrix X[N, d]; only attention knows where a
sequence begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headstream.model.edits import RowEdit
from headstream.model.outputs import LogitsSpec, SamplingParams
from headstream.model.sites import SiteName
from headstream.model.transfer import upload

FINAL = -1
"""Layer number of the rows after the final norm; 0..L number the residual stream."""

Place = tuple[SiteName, int]
"""A site in a layer, 1 to L; 0 for sites in front of the layers."""

Places = tuple[SiteName, tuple[int, ...]]
"""A site in several layers, which ascend: their rows are kept together."""

PREFILL_GRID = 256
"""Prompts are cut at multiples of this position only: a row's bits never depend on the cut."""

LEADING = 64
"""Entries of each row of logits that are found in the one pass over it."""


@dataclass(frozen=True, slots=True, eq=False)
class RowRequest:
    """What is wanted of one row that is unembedded."""

    sampling: SamplingParams
    logits: LogitsSpec
    logprob: bool
    draw: int  # tokens generated before this one: the counter of the seeded draws
    prompt_ids: Sequence[int]  # for penalties
    output_ids: Sequence[int]
    banned_ids: tuple[int, ...] = ()  # not to be drawn this time
    # uint8 [V / 8, rounded up]: bit i % 8 of byte i // 8 says whether token i may be drawn
    mask: NDArray[np.uint8] | None = None

    @property
    def restricted(self) -> bool:
        """Whether some tokens may not be drawn at all."""
        return bool(self.banned_ids or self.sampling.allowed_ids) or self.mask is not None

    @property
    def needs_full_row(self) -> bool:
        """Whether the largest ``LEADING`` entries of the row may not be enough to choose from."""
        params = self.sampling
        if not params.plain or params.allowed_ids or self.mask is not None:
            return True
        wanted = 1 if params.greedy else params.top_k
        return wanted == 0 or wanted + len(self.banned_ids) > LEADING


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRequest:
    """What is wanted of consecutive rows of one sequence whose next tokens are known."""

    targets: Tensor  # int64 [n] the token that follows each row
    logits: LogitsSpec  # to send of each row


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """The rows of one step.

    Sequence s owns the half-open row range [cu_seqlens_q[s], cu_seqlens_q[s + 1]).
    Its first ``prompt_rows[s]`` rows lie inside its prompt, the others behind it: the two kinds run
    through different attention kernels, so that a row's bits depend on its own request alone and
    never on how the scheduler cut the work (see ``attention``).
    """

    input_ids: Tensor  # int64 [N]
    positions: Tensor  # int64 [N]      position of each row in its own sequence
    cu_seqlens_q: Tensor  # int32 [S + 1]
    context_lens: Tensor  # int32 [S]   keys visible to the sequence's last row, its own included
    prompt_rows: Tensor  # int32 [S]
    block_table: Tensor  # int32 [S, B] block ids, unused tail is 0
    slot_mapping: Tensor  # int64 [N]   block_id * block_size + offset: where each row's K, V go
    max_seqlen_q: int  # longest row range of a sequence
    max_seqlen_k: int  # largest of context_lens
    logits_indices: Tensor  # int64 [R] rows to unembed: one of each head, then those of the scores
    # layer (or FINAL) -> int64 rows to keep
    taps: Mapping[int, Tensor] = field(default_factory=dict)
    heads: tuple[RowRequest, ...] = ()
    scores: tuple[ScoreRequest, ...] = ()
    # int64 [2, C] block ids: whole blocks copied from the first row to the second before the step
    block_copies: Tensor = field(default_factory=lambda: torch.empty(2, 0, dtype=torch.int64))
    sites: Mapping[Places, Tensor] = field(default_factory=dict)  # int64 rows to keep
    edits: Mapping[Place, tuple[RowEdit, ...]] = field(default_factory=dict)

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch with its tensors on ``device``."""
        if device.type == "cpu":
            return self
        names = [f.name for f in fields(self) if isinstance(getattr(self, f.name), Tensor)]
        tensors = [getattr(self, name) for name in names]
        moved = iter(upload([*tensors, *self.taps.values(), *self.sites.values()], device))
        changed: dict[str, Any] = dict(zip(names, moved, strict=False))
        return replace(
            self,
            taps=dict(zip(self.taps, moved, strict=False)),
            sites=dict(zip(self.sites, moved, strict=True)),
            edits={
                place: tuple(edit.to(device) for edit in edits)
                for place, edits in self.edits.items()
            },
            **changed,
        )


@dataclass(frozen=True, slots=True, eq=False)
class RowResult:
    """The outcome of one unembedded row."""

    token_id: int  # -1: none may be drawn
    logprob: float | None  # of the token, in the raw row
    values: Tensor | None  # [k] or [V], in the dtype asked for, on CPU
    value_ids: tuple[int, ...]  # token ids of the values, for top-k


class RowScores(NamedTuple):
    """How likely a given next token is after each of n rows."""

    logprobs: Tensor  # float32 [n] natural logarithm of the token's probability
    ranks: Tensor  # int64 [n] tokens with a larger logit, or an equal one and a lower id
    entropies: Tensor  # float32 [n] of the row's distribution, in nats


@dataclass(frozen=True, slots=True, eq=False)
class ScoreResult:
    """The outcome of a :class:`ScoreRequest`, on CPU."""

    scores: RowScores  # [n]
    values: Tensor | None  # [n, k] or [n, V], in the dtype asked for
    value_ids: Tensor | None  # int64 [n, k] token ids of the values, for top-k


@dataclass(frozen=True, slots=True, eq=False)
class StepOutput:
    """What one step computed."""

    rows: tuple[RowResult, ...]  # one of each head
    taps: Mapping[int, Tensor]  # layer -> [rows, d], on CPU
    scores: tuple[ScoreResult, ...] = ()
    # [layers, rows, ...], on the device
    sites: Mapping[Places, Tensor] = field(default_factory=dict)
