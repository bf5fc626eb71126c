"""One request as the engine sees it: its tokens, and how far they are computed."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field, replace

import msgspec
from torch import Tensor

from headstream.model.batch import PREFILL_GRID
from headstream.model.outputs import Outputs
from headstream.server.engine.credit import CREDIT_BYTES
from headstream.server.engine.edits import SequenceEdits
from headstream.server.engine.grammars import Matcher
from headstream.server.engine.lens import Lens
from headstream.server.engine.look import Look
from headstream.server.engine.messages import FinishReason, Milestone, Submit
from headstream.server.engine.priority import Priority
from headstream.server.engine.sites import compares
from headstream.server.engine.views import View

MAX_LOGIT_ROWS = 64
"""Rows of logits that one branch gets in one step, so that a slow reader can hold it up."""


@dataclass(slots=True, eq=False)
class Sequence:
    """Token counters chase each other: ``num_computed`` runs after ``num_tokens``.

    A step computes the positions [num_computed, num_computed + rows). There is no prefill or
    decode phase; a preempted sequence starts again with ``num_computed`` = 0.
    """

    spec: Submit
    arrival_ns: int
    is_whole: bool = False  # computed in one step or not at all: an encoder's rows need all others
    output_ids: list[int] = field(default_factory=list[int])
    block_ids: array[int] = field(default_factory=lambda: array("i"))  # int32
    chunk_keys: tuple[bytes, ...] = ()  # of the prompt, for the prefix cache
    num_chunks: int = 0  # of these the leading ones whose blocks it shares with the cache
    num_computed: int = 0
    num_reported: int = 0  # positions whose rows went out; a recomputed position is not sent twice
    first_step_ns: int = 0
    num_prompt_steps: int = 0  # that computed rows of the prompt
    num_cached: int = 0  # positions that the prefix cache had when it last began
    num_preempted: int = 0
    finish: FinishReason | None = None
    matcher: Matcher | None = None  # of its grammar; stays when it is preempted
    is_forked: bool = False  # others may hold the block it writes in
    edits: SequenceEdits | None = None  # of its siblings, too
    views: tuple[View, ...] = ()  # of the inside of the model
    lens: Lens | None = None
    start_step: int = 0  # when it got its slot, the last time
    times_displaced: int = 0  # by more urgent ones
    told_bytes: int = 0  # of tensors
    credit_bytes: int = CREDIT_BYTES  # it is passed over once it has told these
    # each [rows, d], ascending positions from `first_pooled` on
    pool_rows: list[Tensor] = field(default_factory=list[Tensor])
    priority: Priority = field(init=False)  # may rise while it waits
    num_prompt: int = field(init=False)
    token_ids: array[int] = field(init=False)  # int64: prompt and output
    num_answered: int = field(init=False)  # of a branch: positions whose logits went out
    is_tapped: bool = field(init=False)  # whether rows of any layer are wanted
    keeps_keys: bool = field(init=False)  # whether it shows attention, which compares with all keys
    first_pooled: int = field(init=False)  # first position whose row is pooled
    first_wanted: int = field(init=False)  # first position of the prompt whose row is wanted
    siblings: list[Sequence] = field(init=False)  # those that have not begun

    def __post_init__(self) -> None:
        """Derive what every step asks for."""
        self.priority = self.spec.priority
        self.num_prompt = len(self.spec.token_ids)
        self.output_ids += self.spec.output_ids
        self.token_ids = array("q", (*self.spec.token_ids, *self.output_ids))
        if self.spec.output_ids:
            self.num_reported = self.num_tokens
        self.num_answered = self.num_prompt - 1
        outputs = self.spec.outputs
        rows = outputs.rows
        look = self.spec.look
        self.is_tapped = bool(
            rows.prompt_layers or rows.generated_layers or outputs.pool or look.lens
        )
        self.keeps_keys = compares(look)
        self.first_pooled = _first_pooled(outputs, self.num_prompt)
        self.first_wanted = min(
            0 if rows.prompt_layers else self.first_pooled,
            self.num_prompt if outputs.score is None else outputs.score.first - 1,
            _first_seen(look, self.num_prompt),
        )
        self.siblings = [
            Sequence(
                msgspec.structs.replace(
                    self.spec,
                    id=sibling.id,
                    sampling=replace(self.spec.sampling, seed=sibling.seed),
                    siblings=(),
                ),
                self.arrival_ns,
            )
            for sibling in self.spec.siblings
        ]

    def begin(self, sibling: Sequence) -> None:
        """Let a sibling go on from here, in the same blocks."""
        sibling.block_ids = self.block_ids[:]
        sibling.chunk_keys, sibling.num_chunks = self.chunk_keys, self.num_chunks
        sibling.num_computed = self.num_computed
        sibling.first_step_ns = self.first_step_ns
        sibling.num_prompt_steps, sibling.num_cached = self.num_prompt_steps, self.num_cached
        sibling.priority, sibling.start_step = self.priority, self.start_step
        self.is_forked = sibling.is_forked = True

    @property
    def displaces_nobody(self) -> bool:
        """Whether it is urgent only because it was passed over, and has no siblings to start."""
        return self.priority is not self.spec.priority and self.num_slots == 1

    @property
    def milestone(self) -> Milestone:
        """How it has fared so far."""
        return Milestone(
            self.first_step_ns, self.num_prompt_steps, self.num_cached, self.num_preempted
        )

    @property
    def begins_output(self) -> bool:
        """Whether its newest token, or row of a branch, is the first."""
        if self.spec.branch:
            return self.num_answered == self.num_prompt
        return len(self.output_ids) == len(self.spec.output_ids) + 1

    @property
    def wants_logits(self) -> bool:
        """Whether any row is to be unembedded."""
        spec = self.spec
        generates = spec.branch or spec.max_new_tokens > 0
        return generates or spec.outputs.score is not None or spec.look.lens is not None

    @property
    def num_tokens(self) -> int:
        """All known tokens."""
        return len(self.token_ids)

    @property
    def num_slots(self) -> int:
        """Sequences of a step that it takes, or keeps for its siblings."""
        return 1 + len(self.siblings)

    @property
    def num_pending(self) -> int:
        """Tokens known but not computed."""
        return len(self.token_ids) - self.num_computed

    @property
    def is_appending(self) -> bool:
        """Whether what comes next was appended to a branch."""
        return self.spec.branch and self.num_computed >= self.num_prompt

    @property
    def num_skippable(self) -> int:
        """Leading positions that need not run if their keys and values are there.

        The last token must run, for the logits behind it, and so must rows that are wanted and
        have not been reported.
        """
        if self.keeps_keys:
            return 0
        return min(self.num_tokens - 1, max(self.first_wanted, self.num_reported))

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that may not be drawn next."""
        banned = self.spec.sampling.forbidden_ids
        if len(self.output_ids) < self.spec.min_new_tokens:
            banned += self.spec.stop_token_ids
        return banned

    @property
    def max_tokens(self) -> int:
        """Most tokens it can grow to."""
        return self.num_prompt + self.spec.max_new_tokens

    def next_rows(self, budget: int) -> int:
        """How many positions the next step may compute within ``budget`` rows; 0: none.

        Inside the prompt a cut falls on the grid, so that attention tiles are the same however
        the prompt is cut.
        """
        if self.is_whole:
            return self.num_pending if self.num_pending <= budget else 0
        end = min(self.num_tokens, self.num_computed + budget)
        if self.spec.branch:
            end = min(end, max(self.num_computed, self.num_answered) + MAX_LOGIT_ROWS)
        if end < self.num_prompt:
            end = end // PREFILL_GRID * PREFILL_GRID
        return max(0, end - self.num_computed)

    def wants_token(self, num_rows: int) -> bool:
        """Whether computing ``num_rows`` more positions ends with drawing a token."""
        return (
            self.finish is None
            and not self.spec.branch
            and len(self.output_ids) < self.spec.max_new_tokens
            and self.num_computed + num_rows == self.num_tokens
        )

    def wanted_logits(self, num_rows: int) -> range:
        """The positions, of the next ``num_rows``, whose logits are wanted."""
        end = self.num_computed + num_rows
        if self.spec.branch:
            return range(max(self.num_computed, self.num_answered), end)
        return range(end - self.wants_token(num_rows), end)

    def scored_rows(self, num_rows: int) -> range:
        """Positions that computing ``num_rows`` more makes ready to score the token behind them.

        One that was reported before the sequence was preempted is not scored again.
        """
        score = self.spec.outputs.score
        if score is None:
            return range(0)
        begin = max(self.num_computed, self.num_reported, score.first - 1)
        return range(begin, min(self.num_computed + num_rows, self.num_prompt - 1))

    @property
    def sends_much(self) -> bool:
        """Whether its positions are sent with a logit of every token, or what the layers show."""
        score = self.spec.outputs.score
        return bool(self.views) or (score is not None and score.logits.mode == "full")

    @property
    def cache_salt(self) -> bytes:
        """What its prompt is cached under: an edited model computes other keys and values.

        The values of edits count by their digests, which come with them.
        """
        salt = self.spec.cache_salt
        if not self.spec.edits:
            return salt
        edits = [replace(edit, values=b"") for edit in self.spec.edits]
        return hashlib.blake2b(msgspec.msgpack.encode((salt, edits))).digest()

    def append(self, token_id: int) -> None:
        """Take a drawn token and decide whether it is the last."""
        self.output_ids.append(token_id)
        self.token_ids.append(token_id)
        if self.matcher is not None:
            self.finish = self.matcher.take(token_id)
        if token_id in self.spec.stop_token_ids:
            self.finish = "stop"
        elif self.finish is None and len(self.output_ids) == self.spec.max_new_tokens:
            self.finish = "length"

    @property
    def is_done(self) -> bool:
        """Nothing is left to draw, and the rows asked for are computed; never so for a branch."""
        if self.spec.branch or self.lens:
            return False
        if self.spec.max_new_tokens == 0:
            return self.num_pending == 0
        if self.finish is None:
            return False
        return not self._wants_last_row or self.num_pending == 0

    @property
    def _wants_last_row(self) -> bool:
        """Whether something of the last token, from which none is drawn, is to be sent."""
        trace = self.spec.look.trace
        if trace is not None and trace.start < self.num_tokens <= (trace.end or self.num_tokens):
            return True
        return bool(self.spec.outputs.rows.generated_layers)


def _first_pooled(outputs: Outputs, num_prompt: int) -> int:
    """The first position whose row is pooled, or ``num_prompt``."""
    if outputs.pool is None:
        return num_prompt
    return min((span[0] for span in outputs.pool.spans), default=0)


def _first_seen(look: Look, num_prompt: int) -> int:
    """The first position of which anything inside the model is shown, or ``num_prompt``."""
    first = num_prompt
    if look.trace is not None:
        first = min(first, look.trace.start)
    if look.attention is not None:
        first = min(first, look.attention.queries[0])
    if look.lens is not None:
        first = min(first, look.lens.start)
    return first
