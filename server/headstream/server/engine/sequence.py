"""One request as the engine sees it: its tokens, and how far they are computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from headstream.model.batch import PREFILL_GRID
from headstream.server.engine.messages import FinishReason, Submit


@dataclass(slots=True, eq=False)
class Sequence:
    """Token counters chase each other: ``num_computed`` runs after ``num_tokens``.

    A step computes the positions [num_computed, num_computed + scheduled). There is no prefill or
    decode phase; a preempted sequence starts again with ``num_computed`` = 0.
    """

    spec: Submit
    arrival_ns: int
    output_ids: list[int] = field(default_factory=list[int])
    block_ids: list[int] = field(default_factory=list[int])
    num_computed: int = 0
    num_reported: int = 0  # positions whose rows went out; a recomputed position is not sent twice
    first_step_ns: int = 0
    paused: bool = False
    finish: FinishReason | None = None
    # each [rows, d], ascending positions
    pool_rows: list[Tensor] = field(default_factory=list[Tensor])

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.spec.token_ids)

    @property
    def num_tokens(self) -> int:
        """All known tokens."""
        return self.num_prompt + len(self.output_ids)

    @property
    def num_pending(self) -> int:
        """Tokens known but not computed."""
        return self.num_tokens - self.num_computed

    @property
    def max_tokens(self) -> int:
        """Most tokens it can grow to."""
        return self.num_prompt + self.spec.max_new_tokens

    def tokens(self, start: int, end: int) -> list[int]:
        """Token ids of the positions [start, end)."""
        prompt = self.spec.token_ids[start:end]
        outputs = self.output_ids[max(0, start - self.num_prompt) : max(0, end - self.num_prompt)]
        return [*prompt, *outputs]

    def next_rows(self, budget: int) -> int:
        """How many positions the next step may compute within ``budget`` rows; 0: none.

        Inside the prompt a cut falls on the grid, so that attention tiles are the same however
        the prompt is cut.
        """
        end = min(self.num_tokens, self.num_computed + budget)
        if end < self.num_prompt:
            end = end // PREFILL_GRID * PREFILL_GRID
        return max(0, end - self.num_computed)

    def wants_token(self, num_rows: int) -> bool:
        """Whether computing ``num_rows`` more positions ends with drawing a token."""
        return (
            self.finish is None
            and len(self.output_ids) < self.spec.max_new_tokens
            and self.num_computed + num_rows == self.num_tokens
        )

    def append(self, token_id: int) -> None:
        """Take a drawn token and decide whether it is the last."""
        self.output_ids.append(token_id)
        if token_id in self.spec.stop_token_ids:
            self.finish = "stop"
        elif len(self.output_ids) == self.spec.max_new_tokens:
            self.finish = "length"

    @property
    def is_done(self) -> bool:
        """Nothing is left to draw, and the rows asked for are computed."""
        rows = self.spec.outputs.rows
        if self.spec.max_new_tokens == 0:
            return self.num_pending == 0
        if self.finish is None:
            return False
        return not rows.generated_layers or self.num_pending == 0

    def restart(self) -> None:
        """Forget what was computed: its blocks are gone."""
        self.block_ids = []
        self.num_computed = 0
