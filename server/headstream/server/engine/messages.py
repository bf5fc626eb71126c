"""The narrow protocol between the front and the engine process.

Every message is one msgspec struct; tensors travel behind it as raw frames, little-endian, so no
pickle is ever read. One :class:`StepReport` a step carries the news of all sequences.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import msgspec

from headstream.model.outputs import EmbeddingDefaults, Outputs, SamplingParams, WireDtype
from headstream.model.sites import Edit, SiteName
from headstream.server.engine.frame import Frame
from headstream.server.engine.look import Look, Seen
from headstream.server.engine.priority import Priority

FinishReason = Literal["stop", "length", "dead_end", "refused", "off_grammar", "error"]
"""The last three begin nothing: a grammar, or the tokens before, cannot be followed; a fault."""


class Sibling(msgspec.Struct, frozen=True, array_like=True):
    """Another continuation of the prompt of a :class:`Submit`, alike but for its draws."""

    id: int
    seed: int


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A new sequence; with siblings, several continuations of one prompt.

    The prompt is computed once. Siblings begin with its last row, each with a token of its own,
    and are sequences like any other from there on. Until then they share the fate of the first,
    and nothing that is said of them is heard.
    """

    id: int
    token_ids: tuple[int, ...]
    max_new_tokens: int = 0  # 0: nothing is generated
    sampling: SamplingParams = SamplingParams()
    stop_token_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0  # before these no stop token is drawn
    grammar: str = ""  # what the text must look like, in llguidance's form; empty: anything
    outputs: Outputs = Outputs()
    cache_salt: bytes = b""  # cached chunks of prompts are shared under an equal salt only
    # A branch of a decoding session: it draws no tokens and never ends by itself. Rows of logits
    # come back for the last token of the prompt and for every token appended.
    branch: bool = False
    # Generated before its stream broke: what the sequence begins with, and tells no more.
    output_ids: tuple[int, ...] = ()
    siblings: tuple[Sibling, ...] = ()
    tenant: str = ""  # who shares the engine with others
    look: Look = Look()  # not of branches, nor with siblings
    edits: tuple[Edit, ...] = ()  # made to the model for this sequence alone, in this order
    priority: Priority = Priority.NORMAL


class SubmitOptions(TypedDict, total=False):
    """What the front may say of a sequence that is no branch."""

    max_new_tokens: int
    sampling: SamplingParams
    stop_token_ids: tuple[int, ...]
    min_new_tokens: int
    grammar: str
    outputs: Outputs
    output_ids: tuple[int, ...]
    tenant: str
    priority: Priority
    look: Look
    edits: tuple[Edit, ...]


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """The reader of a sequence is gone."""

    id: int


class Flow(msgspec.Struct, frozen=True, tag="flow"):
    """The reader of a sequence has read on: it goes on until it has told so many bytes in all."""

    id: int
    credit_bytes: int


class Append(msgspec.Struct, frozen=True, tag="append"):
    """Tokens for a branch, which has answered everything before."""

    id: int
    token_ids: tuple[int, ...]


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """A copy of a branch, which has answered everything before."""

    id: int
    new_id: int


class Rollback(msgspec.Struct, frozen=True, tag="rollback"):
    """The first tokens of a branch, which has answered everything before; the others go."""

    id: int
    length: int
    row: bool  # send the row of the last token kept


class Vocabulary(msgspec.Struct, frozen=True, tag="vocabulary"):
    """The bytes of all tokens, which grammars are followed over; sent once, after the start."""

    tokens: list[bytes]  # [V]; empty where a row of the unembedding has no token
    special_ids: tuple[int, ...]
    eos_ids: tuple[int, ...]


class Lookup(msgspec.Struct, frozen=True, tag="lookup"):
    """Rows of E for these tokens; answered by one :class:`LookupReply`."""

    id: int
    token_ids: tuple[int, ...]
    dtype: WireDtype


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Stop now."""


ToEngine = Submit | Abort | Flow | Append | Fork | Rollback | Vocabulary | Lookup | Shutdown


class Token(msgspec.Struct, frozen=True, array_like=True):
    """A generated token and what was asked for of its row."""

    index: int
    token_id: int
    logprob: float | None = None
    logits: Frame | None = None  # [k] or [V]
    logits_ids: tuple[int, ...] = ()  # token ids of the values, for top-k


class Rows(msgspec.Struct, frozen=True, array_like=True):
    """Contextual embeddings of the positions [start, start + n) at one layer."""

    layer: int
    start: int
    values: Frame  # [n, d]


class LogitRow(msgspec.Struct, frozen=True, array_like=True):
    """The logits behind one token of a branch."""

    position: int
    values: Frame  # [k] or [V]
    token_ids: tuple[int, ...]  # of the values, for top-k


class Scores(msgspec.Struct, frozen=True, array_like=True):
    """How likely the tokens at the positions [start, start + n) of the prompt are."""

    start: int
    values: Frame  # float32 [3, n]: log-probabilities, ranks, entropies
    logits: Frame | None = None  # [n, k] or [n, V]
    logits_ids: bytes = b""  # int32 [n, k] token ids of the logits, for top-k


class Milestone(msgspec.Struct, frozen=True, array_like=True):
    """How a sequence has fared; told with its first step, its first token and its end."""

    first_step_ns: int  # when that began, by the clock that all processes of the machine share
    prompt_steps: int  # steps that computed rows of the prompt, for whatever time
    cached_tokens: int  # of the prompt, which were not computed when it last began
    preemptions: int


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """The news of one sequence from one step."""

    id: int
    token: Token | None = None
    rows: tuple[Rows, ...] = ()
    vectors: Frame | None = None  # pooled [spans, d], float32
    scores: Scores | None = None
    finish: FinishReason | None = None
    error: str = ""  # with finish == "error": for the log, never for the caller
    queue_ns: int = 0  # with the first delta: from submit to the first step
    compute_ns: int = 0  # from the start of the first step to the end of this one
    logit_rows: tuple[LogitRow, ...] = ()  # of a branch, by position
    seen: Seen | None = None
    milestone: Milestone | None = None
    told_bytes: int = 0  # of the sequence so far; 0: these have no tensors, or are the last


class StepStats(msgspec.Struct, frozen=True, array_like=True):
    """What one step did and what stands after it, for metrics and health."""

    step: int  # steps since the start; unchanged in a heartbeat
    num_tokens: int  # N
    num_seqs: int  # S
    step_ns: int
    running: int
    waiting: int
    waiting_tokens: int
    blocks_used: int  # by sequences
    blocks_total: int
    preemptions: int  # since the start
    blocks_cached: int = 0  # held by the prefix cache alone, free for the taking
    lookup_tokens: int = 0  # prompt tokens looked up in the prefix cache since the start
    hit_tokens: int = 0  # those of them that were there
    waiting_first: tuple[int, ...] = ()  # for a first step, of each `Priority`
    blocked: bool = False  # nobody may run: those who hold slots wait for their readers


class StepReport(msgspec.Struct, frozen=True, tag="step"):
    """All news of one step; without deltas, a heartbeat."""

    deltas: tuple[Delta, ...]
    stats: StepStats


class LookupReply(msgspec.Struct, frozen=True, tag="lookup"):
    """Answer to a :class:`Lookup`."""

    id: int
    rows: Frame | None  # [n, d]; None: it failed
    error: str = ""


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """Progress of the start."""

    stage: str
    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine answers from now on."""

    directory: str  # of the checkpoint, where the tokenizer lies
    family: str
    architecture: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int
    sites: tuple[SiteName, ...]  # that can be read
    causal: bool  # otherwise rows see what is behind them too: an encoder
    unembeds: bool  # otherwise it gives vectors, and no logits
    embedding: EmbeddingDefaults
    max_model_len: int  # longest sequence, by positions, settings and KV memory
    parameters: int
    dtype: str
    quantization: str
    backend: str
    batch_invariant: bool
    weights_sha256: str
    eos_ids: tuple[int, ...]
    blocks_total: int
    block_size: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The start failed; the process ends."""

    message: str


FromEngine = StepReport | LookupReply | Loading | Ready | Failed
