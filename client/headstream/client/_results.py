"""What calls return: frozen values with numpy arrays.

Shape letters: n tokens or texts, k chosen logits, L layers, d model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstream.client._tensors import VectorType

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of what a request used."""

    input_tokens: int = 0  # tokens read, special ones included
    output_tokens: int = 0  # tokens generated
    tensor_bytes: int = 0  # bytes of tensors sent

    def __add__(self, other: Usage) -> Usage:
        """What both used."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.tensor_bytes + other.tensor_bytes,
        )


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a request went on the server, in nanoseconds."""

    tokenize_ns: int = 0  # turning text into tokens
    queue_ns: int = 0  # waiting for the first step that ran it
    compute_ns: int = 0  # from the start of that step to the end of the last
    first_output_ns: int = 0  # from arrival to the first token or vector; 0 without a stream


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Which numbers these are: equal fingerprints give equal bits, where `batch_invariant`."""

    model: str = ""  # name it is served under
    weights_sha256: str = ""  # over the weights as loaded
    dtype: str = ""  # what it computes in
    backend: str = ""  # the kernels that compute
    batch_invariant: bool = False  # the same bits alone or in any crowd
    quantization: str = ""  # how its linears are stored: none (in dtype), or int8


@dataclass(frozen=True, slots=True, eq=False)
class TopLogits:
    """The largest logits of a row, largest first; of several rows where `append` returns it."""

    token_ids: Array  # [k], int64; [rows, k] of several
    values: Array  # of the same shape


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One generated token and the row of logits it was drawn from."""

    index: int  # counts from 0
    token_id: int
    text: str  # what this token completes; empty while a character or a stop string is open
    logprob: float | None  # natural log of its probability, before temperature and penalties
    logits: Array | TopLogits | None  # [V] for "full", [k] for a list of ids, TopLogits for "top"
    embedding: Array | None  # [L, d], where layers were asked for
    continuation: int = 0  # the one that it belongs to, of `n`


@dataclass(frozen=True, slots=True, eq=False)
class TextScores:
    """How likely each of the n tokens of a text is, given those before it.

    The first token has no score: entry i of the scores belongs to token i + 1.
    """

    token_ids: Array  # [n], int64
    logprobs: Array  # [n - 1], float32, natural log of each token's probability
    ranks: Array  # [n - 1], int64, number of tokens with a larger logit
    entropies: Array  # [n - 1], float32, nats, of the row each token was scored by
    # those rows: [n - 1, V] for "full", [n - 1, k] for ids, TopLogits of [n - 1, k] for "top"
    logits: Array | TopLogits | None
    total_logprob: float
    perplexity: float  # exp(-total_logprob / (n - 1))
    usage: Usage  # of the whole request, as are:
    timings: Timings
    fingerprint: Fingerprint
    request_id: str

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class TokenTable:
    """The tokens of one text. Entry i of each list belongs to token i."""

    tokens: list[str]  # surfaces as text; bytes that form no character become U+FFFD
    surfaces: list[bytes]  # the bytes a token stands for, which may be a part of a character
    token_ids: list[int]
    offsets: list[tuple[int, int]]  # [start, end) in the text, in Python string indices
    byte_offsets: list[tuple[int, int]]  # [start, end) in the UTF-8 bytes of the text
    special: list[bool]  # added by the tokenizer, or a control token

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class TokenEmbeddings(TokenTable):
    """The tokens of one text with a contextual embedding per token and layer."""

    layers: list[int]  # as asked, resolved to 0..L, or -1 for after the final norm
    vectors: Array  # [layers, n, d]
    usage: Usage
    timings: Timings
    fingerprint: Fingerprint
    request_id: str


@dataclass(frozen=True, slots=True, eq=False)
class StaticEmbeddings:
    """Rows of the embedding matrix E, before any layer."""

    token_ids: list[int]
    vectors: Array  # [n, d]
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The sizes of a transformer."""

    layers: int  # L
    dimensions: int  # d
    heads: int  # query heads
    kv_heads: int  # key/value heads
    head_dimensions: int
    vocabulary: int  # V
    parameters: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask of a model."""

    max_model_tokens: int  # of a sequence, generated ones included
    max_text_bytes: int  # of one text
    max_inputs: int  # texts of one `embed` or `score`
    max_new_tokens: int  # of one continuation
    max_top_k: int  # logits of a row, top or chosen
    max_reply_bytes: int  # of tensors
    max_queued_requests: int
    max_queued_tokens: int
    max_branches: int = 0  # of one decoding session
    max_session_tokens: int = 0  # that one session holds
    max_all_session_tokens: int = 0
    session_idle_seconds: float = 0.0  # without a move, until a session is ended
    session_seconds: float = 0.0  # until it is ended in any case
    max_continuations: int = 1  # `n` of one `generate`
    max_stream_items: int = 0  # of one `embed_stream` that the server works on at once
    max_interventions: int = 0  # of one request; 0: the inside of the models is closed
    max_intervention_value: float = 0.0  # largest absolute value added or patched in
    max_intervention_factor: float = 0.0  # largest absolute factor
    max_intervention_bytes: int = 0  # of vectors and patched values of one request, in float32
    max_sites: int = 0  # of one `trace`; 0: the inside of the models is closed
    max_look_bytes: int = 0  # that the server keeps of a text while it is looked into


@dataclass(frozen=True, slots=True)
class EmbeddingDefaults:
    """How a model's own vectors are made: what `embed` does where it is not told."""

    pooling: Literal["mean", "last", "cls", "max"] = "mean"
    pool_special_tokens: bool = False  # mean and max go over special tokens too
    pool_prompt: bool = True  # and over those of a prompt
    normalize: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt_name: str = ""  # of the prompt that is used unasked


@dataclass(frozen=True, slots=True)
class EmbeddingChoices:
    """What `embed` can be asked for; empty of a model that is not loaded."""

    poolings: tuple[Literal["mean", "last", "cls", "max"], ...] = ()
    dtypes: tuple[VectorType, ...] = ()
    max_dimensions: int = 0  # `dimensions` is 1 to this


@dataclass(frozen=True, slots=True)
class SiteInfo:
    """A place inside a model that can be read."""

    name: str  # TransformerLens's
    per_layer: bool  # there is one in each layer; else one in the model
    heads: int  # 0: it has none
    width: int  # values of a row, or of a head of a row; 0: one for each token looked at
    changeable: bool  # interventions can change it


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model."""

    name: str
    state: Literal["unknown", "loading", "serving", "failed"]
    family: str  # of forward pass: gpt2, llama, gemma3, bert, modernbert
    architecture: str  # the checkpoint's own name of it
    sizes: ModelSizes
    limits: Limits
    capabilities: Mapping[str, bool]  # full method name, `headstream.v1.LogitsService/Generate`
    eos_token_ids: list[int]
    fingerprint: Fingerprint
    embedding: EmbeddingDefaults = EmbeddingDefaults()
    bidirectional: bool = False  # a token's vector depends on what is behind it too
    embedding_choices: EmbeddingChoices = EmbeddingChoices()
    sites: tuple[SiteInfo, ...] = ()  # places inside it; empty: they cannot be read

    def can(self, method: str) -> bool:
        """Whether a method is served, by its short or full name: `Generate`, `EmbedTokens`."""
        return any(
            served and name.rpartition("/")[2] == method.rpartition("/")[2]
            for name, served in self.capabilities.items()
        )
