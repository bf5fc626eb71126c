"""Pooled vectors as the caller wants them: shortened, normalized, in fewer bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headstream.server.engine.stream import WireTensor
from headstream.server.wire.tensors import VectorDtype, make_tensor
from headstream.v1 import tensor_pb2

INT8_SCALE = 127


def finish_vectors(
    pooled: WireTensor, dimensions: int, *, normalize: bool, dtype: VectorDtype, single: bool
) -> tensor_pb2.Tensor:
    """The vectors of one text.

    Args:
        pooled: [spans, d], float32.
        dimensions: How many of the first dimensions are kept, before normalizing.
        normalize: Scale each vector to length 1; a zero vector stays zero.
        dtype: See :func:`encode_vectors`.
        single: Whether the text has one vector, [dimensions], instead of [spans, dimensions].
    """
    vectors = np.frombuffer(pooled.data, "<f4").reshape(pooled.shape)[:, :dimensions]
    if normalize:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        vectors = (vectors / np.where(lengths == 0.0, 1.0, lengths)).astype("<f4")
    shape = (dimensions,) if single else vectors.shape
    return make_tensor(dtype, shape, encode_vectors(vectors, dtype))


def encode_vectors(vectors: NDArray[np.float32], dtype: VectorDtype) -> bytes:
    """Row-major little-endian bytes of float32 vectors in another type.

    int8 is round(127 x), kept in [-127, 127]: meant for normalized vectors, where dividing by 127
    gives the values back. binary is one bit a dimension, set where the value is above zero.
    """
    match dtype:
        case "float32":
            return vectors.astype("<f4").tobytes()
        case "float16":
            return vectors.astype("<f2").tobytes()
        case "bfloat16":
            return to_bfloat16(vectors)
        case "int8":
            scaled = np.clip(np.rint(vectors * INT8_SCALE), -INT8_SCALE, INT8_SCALE)
            return scaled.astype(np.int8).tobytes()
        case "binary":
            return np.packbits(vectors > 0.0, axis=1).tobytes()


def to_bfloat16(vectors: NDArray[np.float32]) -> bytes:
    """The upper halves of the floats, rounded to nearest even."""
    bits = np.ascontiguousarray(vectors, "<f4").view("<u4")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    # Rounding would carry some NaNs into infinity: those keep their upper half, made quiet.
    nan = np.isnan(vectors)
    return np.where(nan, (bits >> 16) | 0x40, rounded >> 16).astype("<u2").tobytes()
