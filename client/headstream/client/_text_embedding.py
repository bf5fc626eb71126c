"""The vectors of one text of many, with how they were made; or why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import grpc
import numpy as np

from headstream.client._errors import FailedItem
from headstream.client._tensors import to_array, unpack_binary
from headstream.v1 import tensor_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headstream.client._results import Array
    from headstream.v1 import embeddings_service_pb2 as pb


_LASTING = {
    code.value[0]
    for code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    )
}
"""What the same server would say of the same text again."""
_TOO_LARGE = "REPLY_TOO_LARGE"
"""So would this, whose code is also that of a queue that is full."""


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbedding:
    """The vector of one text, or those of its spans."""

    vectors: Array  # [d] or [spans, d]; of binary uint8 [..., ceil(d / 8)]
    scales: Array | None  # of int8, float32 [] or [spans]: times `vectors` it gives the values
    dimensions: int  # d
    num_tokens: int  # read
    truncated: bool  # the text was cut, to `num_tokens`

    def to_float32(self) -> Array:
        """The values, float32 [d] or [spans, d]: int8 scaled, binary as 1 and -1."""
        if self.scales is not None:
            scaled: Array = self.vectors * self.scales[..., np.newaxis]
            return scaled
        if self.vectors.dtype == np.uint8:
            return unpack_binary(self.vectors, self.dimensions).astype(np.float32)
        return self.vectors.astype(np.float32)


EmbedResult: TypeAlias = TextEmbedding | FailedItem


def read_results(results: Iterable[pb.EmbedResult]) -> list[EmbedResult]:
    """What became of each text."""
    return [read_result(index, result) for index, result in enumerate(results)]


def read_result(index: int, result: pb.EmbedResult) -> EmbedResult:
    """What became of the text at a position of many."""
    if result.HasField("error"):
        error = result.error
        passing = error.code not in _LASTING and error.reason != _TOO_LARGE
        return FailedItem(index, error.reason or f"CODE_{error.code}", error.message, passing)
    message = result.embedding
    shape = message.vectors.shape
    scales = None
    if message.vectors.dtype == tensor_pb2.DATA_TYPE_INT8:
        scales = np.array(message.scales, np.float32).reshape(shape[:-1])
    return TextEmbedding(
        vectors=to_array(message.vectors),
        scales=scales,
        dimensions=shape[-1],
        num_tokens=message.num_tokens,
        truncated=message.truncated,
    )
