"""From arguments to requests for embeddings: pure functions that both clients call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, TypedDict

from headstream.client import _interventions, _priority
from headstream.client._inputs import text_input
from headstream.client._tensors import wire_type
from headstream.v1 import embeddings_service_pb2 as embeddings_pb
from headstream.v1 import tensor_pb2
from headstream.v1 import types_pb2 as types_pb

if TYPE_CHECKING:
    from headstream.client._inputs import Text
    from headstream.client._interventions import Intervention
    from headstream.client._priority import PriorityName
    from headstream.client._tensors import FloatType, VectorType

PoolingName: TypeAlias = Literal["model", "mean", "last", "cls", "max"]
SpanUnit: TypeAlias = Literal["char", "byte"]
Spans: TypeAlias = Sequence[tuple[int, int]]  # [start, end) of each


class VectorOptions(TypedDict, total=False):
    """How vectors of floats are made of texts with their prompts; `Client.embed` explains."""

    pooling: PoolingName
    layer: int
    normalize: bool | None
    dimensions: int | None
    truncate: bool
    interventions: Sequence[Intervention]
    priority: PriorityName


class TokenOptions(TypedDict, total=False):
    """What `embed_tokens` may be told beside the text; `Client.embed_tokens` explains."""

    layers: Sequence[int]
    model: str
    dtype: FloatType
    skip_special_tokens: bool
    interventions: Sequence[Intervention]
    priority: PriorityName


class Wanted(NamedTuple):
    """How vectors are made, and by which model."""

    options: embeddings_pb.EmbedOptions
    interventions: Sequence[types_pb.Intervention]
    priority: types_pb.Priority.ValueType


class EmbedOptions(VectorOptions, total=False):
    """How vectors are made; `Client.embed` explains."""

    prompt: str | None
    prompt_name: str | None
    dtype: VectorType


_POOLINGS: Mapping[str, embeddings_pb.Pooling.ValueType] = {
    "model": embeddings_pb.POOLING_UNSPECIFIED,
    "mean": embeddings_pb.POOLING_MEAN,
    "last": embeddings_pb.POOLING_LAST,
    "cls": embeddings_pb.POOLING_CLS,
    "max": embeddings_pb.POOLING_MAX,
}
_UNITS: Mapping[str, embeddings_pb.OffsetUnit.ValueType] = {
    "char": embeddings_pb.OFFSET_UNIT_CHAR,
    "byte": embeddings_pb.OFFSET_UNIT_BYTE,
}


def embed_options(
    *,
    pooling: PoolingName = "model",
    prompt: str | None = None,
    prompt_name: str | None = None,
    layer: int = -1,
    normalize: bool | None = None,
    dimensions: int | None = None,
    dtype: VectorType = "float32",
    truncate: bool = False,
    unit: SpanUnit = "char",
    interventions: Sequence[Intervention] = (),
    priority: PriorityName = "normal",
) -> Wanted:
    """How vectors are made.

    Raises:
        ValueError: `pooling`, `dtype`, `unit` or `priority` is an unknown word, `dimensions` is
            below 1, or there are two prompts, or the vector of an intervention has no numbers.
    """
    if pooling not in _POOLINGS:
        raise ValueError(f"pooling {pooling!r} is none of {', '.join(_POOLINGS)}")
    if unit not in _UNITS:
        raise ValueError(f"unit {unit!r} is none of {', '.join(_UNITS)}")
    if dimensions is not None and dimensions < 1:
        raise ValueError(f"dimensions is {dimensions}; it is at least 1")
    if prompt is not None and prompt_name is not None:
        raise ValueError("give one of prompt and prompt_name")
    options = embeddings_pb.EmbedOptions(
        pooling=_POOLINGS[pooling],
        layer=layer,
        normalize=normalize,
        dimensions=dimensions,
        dtype=wire_type(dtype),
        truncate=truncate,
        offset_unit=_UNITS[unit],
    )
    if prompt is not None:
        options.prompt_text = prompt
    if prompt_name is not None:
        options.prompt_name = prompt_name
    changes = _interventions.to_messages(interventions)
    return Wanted(options, changes, _priority.to_message(priority))


def embed(
    texts: str | Sequence[Text],
    wanted: Wanted,
    *,
    model: str,
    spans: Sequence[Spans] = (),
) -> embeddings_pb.EmbedRequest:
    """Texts to embed; a single string is a list of one. `spans`: of each text, or none at all.

    Raises:
        ValueError: There are spans, but not for each text.
    """
    several = [texts] if isinstance(texts, str) else texts
    if spans and len(spans) != len(several):
        raise ValueError(f"{len(several)} texts and the spans of {len(spans)}")
    inputs = map(embed_input, several, spans or [()] * len(several))
    return embeddings_pb.EmbedRequest(
        model=model,
        inputs=inputs,
        options=wanted.options,
        interventions=wanted.interventions,
        priority=wanted.priority,
    )


def embed_input(text: Text, spans: Spans = ()) -> embeddings_pb.EmbedInput:
    """A text, and the parts of it that become vectors; none: the whole."""
    return embeddings_pb.EmbedInput(
        input=text_input(text),
        spans=[embeddings_pb.Span(start=start, end=end) for start, end in spans],
    )


def stream_opening(
    texts: object, wanted: Wanted, look_ahead: int, *, model: str
) -> embeddings_pb.EmbedStreamRequest:
    """The first message of a stream of texts.

    Raises:
        TypeError: The texts are a single string.
        ValueError: `look_ahead` is below 1, or the vectors would need a scale each.
    """
    if isinstance(texts, str):
        raise TypeError("embed_stream takes several texts, not a string")
    if look_ahead < 1:
        raise ValueError(f"look_ahead {look_ahead} is below 1")
    if wanted.options.dtype == tensor_pb2.DATA_TYPE_INT8:
        raise ValueError("dtype int8 needs a scale beside each vector, which embed_each gives")
    return embeddings_pb.EmbedStreamRequest(
        model=model,
        options=wanted.options,
        interventions=wanted.interventions,
        priority=wanted.priority,
    )


def embed_spans(
    text: str,
    spans: Spans,
    wanted: Wanted,
    *,
    model: str,
) -> embeddings_pb.EmbedRequest:
    """One text, and the parts of it that become vectors.

    Raises:
        ValueError: There are no spans.
    """
    if not spans:
        raise ValueError("embed_spans needs at least one span")
    return embed([text], wanted, model=model, spans=[spans])


def embed_tokens(
    text: Text,
    *,
    layers: Sequence[int] = (-1,),
    dtype: FloatType = "float32",
    model: str = "",
    skip_special_tokens: bool = False,
    interventions: Sequence[Intervention] = (),
    priority: PriorityName = "normal",
) -> embeddings_pb.EmbedTokensRequest:
    """A text whose tokens are embedded."""
    return embeddings_pb.EmbedTokensRequest(
        model=model,
        input=text_input(text, skip_special_tokens=skip_special_tokens),
        layers=types_pb.LayerSelection(layers=layers),
        dtype=wire_type(dtype),
        interventions=_interventions.to_messages(interventions),
        priority=_priority.to_message(priority),
    )


def lookup(text: Text, *, dtype: FloatType, model: str) -> embeddings_pb.LookupEmbeddingsRequest:
    """Rows of the embedding matrix."""
    return embeddings_pb.LookupEmbeddingsRequest(
        model=model,
        input=text_input(text, skip_special_tokens=True),
        dtype=wire_type(dtype),
    )
