"""Embedding requests: how vectors are made, and of what."""

from __future__ import annotations

from dataclasses import dataclass

from headstream.server.errors import InvalidRequest
from headstream.server.limits import Limits
from headstream.server.wire.fields import check_int
from headstream.server.wire.layers import FINAL, resolve_layer
from headstream.server.wire.spans import OffsetUnit, PoolKind
from headstream.server.wire.tensors import VectorDtype, parse_vector_dtype, vector_bytes
from headstream.v1 import embeddings_service_pb2 as pb

_POOLING: dict[int, PoolKind] = {
    pb.POOLING_UNSPECIFIED: "mean",
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

    pooling: PoolKind
    layer: int  # 0..L, or -1 for final
    normalize: bool
    dimensions: int
    dtype: VectorDtype
    truncate: bool
    unit: OffsetUnit

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector."""
        return vector_bytes(self.dtype, self.dimensions)


def parse_options(field: str, options: pb.EmbedOptions, limits: Limits) -> VectorOptions:
    """The options, with their defaults."""
    if options.pooling not in _POOLING:
        raise InvalidRequest(f"{field}.pooling", "unknown value")
    if options.offset_unit not in _UNITS:
        raise InvalidRequest(f"{field}.offset_unit", "unknown value")
    layer = options.layer if options.HasField("layer") else FINAL
    dimensions = options.dimensions if options.HasField("dimensions") else limits.d_model
    normalize = options.normalize if options.HasField("normalize") else True
    dtype = parse_vector_dtype(f"{field}.dtype", options.dtype)
    if dtype == "int8" and not normalize:
        raise InvalidRequest(f"{field}.dtype", "INT8 is defined for normalized vectors only")
    return VectorOptions(
        pooling=_POOLING[options.pooling],
        layer=resolve_layer(f"{field}.layer", layer, limits.n_layers),
        normalize=normalize,
        dimensions=check_int(f"{field}.dimensions", dimensions, 1, limits.d_model),
        dtype=dtype,
        truncate=options.truncate,
        unit=_UNITS[options.offset_unit],
    )
