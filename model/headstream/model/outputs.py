"""What a request may ask of the model: plain frozen values, the same in every process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

WireDtype = Literal["float32", "bfloat16", "float16"]
PoolKind = Literal["mean", "last", "cls", "max"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn from a row. The defaults are greedy."""

    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    allowed_ids: tuple[int, ...] = ()  # the only tokens that may be drawn; empty: all
    forbidden_ids: tuple[int, ...] = ()
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the largest (penalised, biased) logit is taken."""
        return self.temperature == 0.0

    @property
    def plain(self) -> bool:
        """Whether the row is used as it is, without penalties or bias."""
        return (
            self.repetition_penalty == 1.0
            and self.presence_penalty == 0.0
            and self.frequency_penalty == 0.0
            and not self.logit_bias
        )


@dataclass(frozen=True, slots=True)
class LogitsSpec:
    """The logits to send with each row."""

    mode: Literal["none", "top", "chosen", "full"] = "none"
    top_k: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: bool = False  # log-probabilities instead of raw logits
    dtype: WireDtype = "float32"

    def row_values(self, d_vocab: int) -> int:
        """Number of values sent with each row."""
        return {
            "none": 0,
            "top": self.top_k,
            "chosen": len(self.token_ids),
            "full": d_vocab,
        }[self.mode]


@dataclass(frozen=True, slots=True)
class RowsSpec:
    """Contextual embeddings to send, row by row. Layers are resolved: 0..L, or -1 for final."""

    prompt_layers: tuple[int, ...] = ()
    generated_layers: tuple[int, ...] = ()
    dtype: WireDtype = "float32"


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Vectors to pool from the rows of one layer, once the whole prompt has run."""

    layer: int  # 0..L, or -1 for final
    kind: PoolKind
    spans: tuple[tuple[int, ...], ...]  # for each vector the positions of its rows, ascending


@dataclass(frozen=True, slots=True)
class EmbeddingDefaults:
    """How a model's own vectors are made: what holds where a request does not say."""

    pooling: PoolKind = "mean"
    pool_special: bool = False  # mean and max go over special tokens too
    pool_prompt: bool = True  # and over those of a prompt
    normalize: bool = True
    prompts: dict[str, str] = field(
        default_factory=dict[str, str]
    )  # name -> what is put before a text
    default_prompt: str = ""  # name of the one that is put there unasked; empty: none


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """Teacher forcing: how likely each token of the prompt is, given those before it."""

    first: int = 1  # first position scored, at least 1: nothing comes before token 0
    logits: LogitsSpec = LogitsSpec()  # to send of the row that scores each position


@dataclass(frozen=True, slots=True)
class Outputs:
    """Everything one sequence asks for."""

    logits: LogitsSpec = LogitsSpec()
    logprob: bool = False  # of each generated token
    rows: RowsSpec = RowsSpec()
    pool: PoolSpec | None = None
    score: ScoreSpec | None = None
