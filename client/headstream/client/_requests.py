"""From arguments to the contract's requests: pure functions that both clients call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, TypeGuard, cast

from headstream.client import _interventions, _priority
from headstream.client._inputs import text_input
from headstream.client._tensors import wire_type
from headstream.v1 import logits_service_pb2 as logits_pb
from headstream.v1 import tokenizer_service_pb2 as tokenizer_pb
from headstream.v1 import types_pb2 as types_pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstream.client._inputs import Text
    from headstream.client._interventions import Intervention
    from headstream.client._priority import PriorityName
    from headstream.client._tensors import FloatType

LogitsWanted: TypeAlias = "Literal['none', 'top', 'full'] | Sequence[int]"


class ScoreOptions(TypedDict, total=False):
    """What `score` may be told beside the texts; `Client.score` explains."""

    model: str
    logits: LogitsWanted
    top_logits: int
    logprobs: bool
    logits_dtype: FloatType
    window_stride: int | None
    skip_special_tokens: bool
    interventions: Sequence[Intervention]
    priority: PriorityName


def constraint(
    regex: str | None, json_schema: str | Mapping[str, object] | None, lark: str | None
) -> logits_pb.Constraint | None:
    """What the generated text must look like; None where nothing is said.

    Raises:
        ValueError: More than one of them is given.
    """
    if sum(kind is not None for kind in (regex, json_schema, lark)) > 1:
        raise ValueError("give one of regex, json_schema and lark")
    if json_schema is not None:
        text = json_schema if isinstance(json_schema, str) else json.dumps(json_schema)
        return logits_pb.Constraint(json_schema=text)
    if regex is not None:
        return logits_pb.Constraint(regex=regex)
    return None if lark is None else logits_pb.Constraint(lark=lark)


def logits_options(
    wanted: LogitsWanted, *, top_logits: int, logprobs: bool, dtype: FloatType
) -> logits_pb.LogitsOptions:
    """Which logits come with every row.

    Raises:
        ValueError: `wanted` or `dtype` is an unknown word.
    """
    options = logits_pb.LogitsOptions(dtype=wire_type(dtype))
    if logprobs:
        options.scale = logits_pb.LOGITS_SCALE_LOGPROBS
    if wanted == "top":
        options.mode = logits_pb.LOGITS_MODE_TOP_K
        options.top_k = top_logits
    elif wanted == "full":
        options.mode = logits_pb.LOGITS_MODE_FULL
    elif not isinstance(wanted, str):
        options.mode = logits_pb.LOGITS_MODE_CHOSEN
        options.token_ids.extend(wanted)
    elif wanted != "none":
        raise ValueError(f"logits {wanted!r} is neither none, top, full nor a list of token ids")
    return options


def decode_open(
    prompt: Text,
    logits: Literal["top", "full"] | Sequence[int],
    *,
    model: str,
    top_logits: int,
    logprobs: bool,
    dtype: FloatType,
    max_tokens: int | None,
    skip_special_tokens: bool,
    interventions: Sequence[Intervention],
    priority: PriorityName,
) -> logits_pb.DecodeOpen:
    """The first move of a decoding session.

    Raises:
        ValueError: `logits` or `dtype` is an unknown word.
    """
    return logits_pb.DecodeOpen(
        model=model,
        prompt=text_input(prompt, skip_special_tokens=skip_special_tokens),
        logits=logits_options(logits, top_logits=top_logits, logprobs=logprobs, dtype=dtype),
        max_tokens=max_tokens,
        interventions=_interventions.to_messages(interventions),
        priority=_priority.to_message(priority),
    )


def is_single(text: Text | Sequence[Text]) -> TypeGuard[Text]:
    """Whether it is one text, or the token ids of one, and not a list of texts."""
    return isinstance(text, str) or (len(text) > 0 and not isinstance(text[0], Sized))


def score(
    texts: Text | Sequence[Text],
    *,
    model: str = "",
    logits: LogitsWanted = "none",
    top_logits: int = 10,
    logprobs: bool = False,
    logits_dtype: FloatType = "float32",
    window_stride: int | None = None,
    skip_special_tokens: bool = False,
    interventions: Sequence[Intervention] = (),
    priority: PriorityName = "normal",
) -> logits_pb.ScoreRequest:
    """Texts to score; a single one is a list of one.

    Raises:
        ValueError: `logits` or `logits_dtype` is an unknown word.
    """
    several = [texts] if is_single(texts) else cast("Sequence[Text]", texts)
    return logits_pb.ScoreRequest(
        model=model,
        inputs=[text_input(text, skip_special_tokens=skip_special_tokens) for text in several],
        logits=logits_options(logits, top_logits=top_logits, logprobs=logprobs, dtype=logits_dtype),
        window_stride=window_stride,
        interventions=_interventions.to_messages(interventions),
        priority=_priority.to_message(priority),
    )


def stop_conditions(
    stop: str | Sequence[str],
    *,
    token_ids: Sequence[int],
    ignore_eos: bool,
    max_new_tokens: int,
    min_new_tokens: int = 0,
) -> logits_pb.StopConditions:
    """When a continuation ends."""
    return logits_pb.StopConditions(
        max_new_tokens=max_new_tokens,
        token_ids=token_ids,
        strings=[stop] if isinstance(stop, str) else stop,
        ignore_eos=ignore_eos,
        min_new_tokens=min_new_tokens,
    )


def generated_embeddings(
    layers: Sequence[int] | None, *, dtype: FloatType
) -> logits_pb.GeneratedEmbeddings | None:
    """Layers whose vectors come with every generated token; None for no vectors."""
    if not layers:
        return None
    return logits_pb.GeneratedEmbeddings(
        layers=types_pb.LayerSelection(layers=layers), dtype=wire_type(dtype)
    )


def tokenize(text: str, *, model: str, skip_special_tokens: bool) -> tokenizer_pb.TokenizeRequest:
    """A text to split."""
    return tokenizer_pb.TokenizeRequest(
        model=model, text=text, skip_special_tokens=skip_special_tokens
    )


def detokenize(
    token_ids: Sequence[int], *, model: str, skip_special_tokens: bool
) -> tokenizer_pb.DetokenizeRequest:
    """Tokens to join."""
    return tokenizer_pb.DetokenizeRequest(
        model=model, ids=token_ids, skip_special_tokens=skip_special_tokens
    )
