"""From arguments to requests that look inside: pure functions that both clients call."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from headstream.client import _interventions, _priority, _sites
from headstream.client._inputs import text_input
from headstream.client._requests import logits_options
from headstream.client._tensors import wire_type
from headstream.v1 import internals_service_pb2 as pb
from headstream.v1 import types_pb2 as types_pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstream.client._inputs import Text
    from headstream.client._interventions import Intervention, Positions
    from headstream.client._priority import PriorityName
    from headstream.client._requests import LogitsWanted
    from headstream.client._sites import Site
    from headstream.client._tensors import FloatType


class LookOptions(TypedDict, total=False):
    """What any way of looking inside may be told; `Client.trace` explains."""

    model: str
    interventions: Sequence[Intervention]
    priority: PriorityName
    skip_special_tokens: bool


class TraceOptions(LookOptions, total=False):
    """What `trace` may be told beside the text and the sites; `Client.trace` explains."""

    positions: Positions
    max_new_tokens: int
    dtype: FloatType


class AttentionOptions(LookOptions, total=False):
    """What `attention` may be told beside the text; `Client.attention` explains."""

    layers: Sequence[int]
    heads: Sequence[int]
    queries: Sequence[int]
    top_k: int
    average_heads: bool
    rollout: bool
    dtype: FloatType


class LensOptions(LookOptions, total=False):
    """What `logit_lens` may be told beside the text; `Client.logit_lens` explains."""

    layers: Sequence[int]
    positions: Positions
    logits: LogitsWanted
    top_logits: int
    logprobs: bool
    logits_dtype: FloatType


def trace(
    text: Text,
    sites: str | Site | Sequence[str | Site],
    *,
    positions: Positions = (0, None),
    max_new_tokens: int = 0,
    dtype: FloatType = "float32",
    model: str = "",
    interventions: Sequence[Intervention] = (),
    priority: PriorityName = "normal",
    skip_special_tokens: bool = False,
) -> pb.TraceRequest:
    """A text, and the places to read meanwhile.

    Raises:
        ValueError: `dtype` or the name of a site is an unknown word, or a vector has no numbers.
    """
    return pb.TraceRequest(
        model=model,
        input=text_input(text, skip_special_tokens=skip_special_tokens),
        sites=_sites.site_messages(sites),
        positions=_range(positions),
        dtype=wire_type(dtype),
        max_new_tokens=max_new_tokens,
        interventions=_interventions.to_messages(interventions),
        priority=_priority.to_message(priority),
        stacked=True,
    )


def attention(
    text: Text,
    *,
    layers: Sequence[int] = (),
    heads: Sequence[int] = (),
    queries: Sequence[int] = (),
    top_k: int = 0,
    average_heads: bool = False,
    rollout: bool = False,
    dtype: FloatType = "float32",
    model: str = "",
    interventions: Sequence[Intervention] = (),
    priority: PriorityName = "normal",
    skip_special_tokens: bool = False,
) -> pb.AttentionRequest:
    """A text whose attention weights are wanted.

    Raises:
        ValueError: `dtype` is an unknown word, or a vector has no numbers.
    """
    return pb.AttentionRequest(
        model=model,
        input=text_input(text, skip_special_tokens=skip_special_tokens),
        layers=layers,
        heads=heads,
        queries=queries,
        top_k=top_k,
        average_heads=average_heads,
        rollout=rollout,
        dtype=wire_type(dtype),
        interventions=_interventions.to_messages(interventions),
        priority=_priority.to_message(priority),
    )


def logit_lens(
    text: Text,
    *,
    layers: Sequence[int] = (),
    positions: Positions = (0, None),
    logits: LogitsWanted = "top",
    top_logits: int = 10,
    logprobs: bool = False,
    logits_dtype: FloatType = "float32",
    model: str = "",
    interventions: Sequence[Intervention] = (),
    priority: PriorityName = "normal",
    skip_special_tokens: bool = False,
) -> pb.LogitLensRequest:
    """A text, and what each layer would predict.

    Raises:
        ValueError: `logits` or `logits_dtype` is an unknown word, `logits` is "none", or a vector
            has no numbers.
    """
    if logits == "none":
        raise ValueError("logits is none, and a lens gives nothing else")
    return pb.LogitLensRequest(
        model=model,
        input=text_input(text, skip_special_tokens=skip_special_tokens),
        layers=types_pb.LayerSelection(layers=layers),
        positions=_range(positions),
        logits=logits_options(logits, top_logits=top_logits, logprobs=logprobs, dtype=logits_dtype),
        interventions=_interventions.to_messages(interventions),
        priority=_priority.to_message(priority),
    )


def _range(positions: Positions) -> pb.PositionRange:
    start, end = positions
    return pb.PositionRange(start=start, end=end)
