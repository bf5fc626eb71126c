"""Embedding requests: how vectors are made, and of what."""

from __future__ import annotations

from dataclasses import dataclass

from headstream.model.outputs import EmbeddingDefaults, PoolKind
from headstream.server.errors import InvalidRequest
from headstream.server.limits import Limits
from headstream.server.wire.fields import check_int
from headstream.server.wire.inputs import ParsedInput, TextInput, check_text
from headstream.server.wire.layers import FINAL, resolve_layer
from headstream.server.wire.spans import OffsetUnit, PoolRule
from headstream.server.wire.tensors import VectorDtype, parse_vector_dtype, vector_bytes
from headstream.v1 import embeddings_service_pb2 as pb

_POOLING: dict[int, PoolKind] = {
    pb.POOLING_MEAN: "mean",
    pb.POOLING_LAST: "last",
    pb.POOLING_CLS: "cls",
    pb.POOLING_MAX: "max",
}
_UNITS: dict[int, OffsetUnit] = {
    pb.OFFSET_UNIT_UNSPECIFIED: "byte",
    pb.OFFSET_UNIT_BYTE: "byte",
    pb.OFFSET_UNIT_CHAR: "char",
}


@dataclass(frozen=True, slots=True)
class VectorOptions:
    """How vectors are made."""

    pooling: PoolRule
    layer: int  # 0..L, or -1 for final
    normalize: bool
    dimensions: int
    dtype: VectorDtype
    truncate: bool
    unit: OffsetUnit
    prompt: str
    pool_prompt: bool  # its tokens are pooled with those of the text
    prompt_field: str  # where the request asks for it; empty: it is the model's default

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector."""
        return vector_bytes(self.dtype, self.dimensions)

    def prompt_of(self, parsed: ParsedInput) -> str:
        """What is put before an input: ids and chats are taken as they are.

        Raises:
            InvalidRequest: A prompt was asked for, and the input is no text.
        """
        if isinstance(parsed, TextInput):
            return self.prompt
        if self.prompt_field and self.prompt:
            raise InvalidRequest(self.prompt_field, "goes with texts, not with token ids or chats")
        return ""


def parse_options(
    field: str, options: pb.EmbedOptions, limits: Limits, defaults: EmbeddingDefaults
) -> VectorOptions:
    """The options, and the model's own way where they do not say."""
    if options.offset_unit not in _UNITS:
        raise InvalidRequest(f"{field}.offset_unit", "unknown value")
    layer = options.layer if options.HasField("layer") else FINAL
    dimensions = options.dimensions if options.HasField("dimensions") else limits.d_model
    normalize = options.normalize if options.HasField("normalize") else defaults.normalize
    prompt, prompt_field = _parse_prompt(field, options, limits, defaults)
    return VectorOptions(
        pooling=_parse_pooling(f"{field}.pooling", options.pooling, defaults),
        layer=resolve_layer(f"{field}.layer", layer, limits.n_layers),
        normalize=normalize,
        dimensions=check_int(f"{field}.dimensions", dimensions, 1, limits.d_model),
        dtype=parse_vector_dtype(f"{field}.dtype", options.dtype),
        truncate=options.truncate,
        unit=_UNITS[options.offset_unit],
        prompt=prompt,
        pool_prompt=defaults.pool_prompt,
        prompt_field=prompt_field,
    )


def _parse_pooling(field: str, pooling: int, defaults: EmbeddingDefaults) -> PoolRule:
    if pooling == pb.POOLING_UNSPECIFIED:
        return PoolRule(defaults.pooling, defaults.pool_special)
    if pooling not in _POOLING:
        raise InvalidRequest(field, "unknown value")
    return PoolRule(_POOLING[pooling])


def _parse_prompt(
    field: str, options: pb.EmbedOptions, limits: Limits, defaults: EmbeddingDefaults
) -> tuple[str, str]:
    """The prompt, and the field that asks for it."""
    kind = options.WhichOneof("prompt")
    if kind is None:
        return defaults.prompts.get(defaults.default_prompt, ""), ""
    field = f"{field}.{kind}"
    if kind == "prompt_text":
        if options.prompt_text:
            check_text(field, options.prompt_text, limits)
        return options.prompt_text, field
    if options.prompt_name not in defaults.prompts:
        known = ", ".join(defaults.prompts) or "none"
        name = options.prompt_name[:100]
        raise InvalidRequest(field, f"{name!r} is no prompt of the model (known: {known})")
    return defaults.prompts[options.prompt_name], field
