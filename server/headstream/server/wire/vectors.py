"""Pooled vectors as the caller wants them: shortened, normalized, in fewer bits."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headstream.server.engine.stream import WireTensor
from headstream.server.wire.tensors import VectorDtype, make_tensor
from headstream.v1 import embeddings_service_pb2 as pb

INT8_MAX = 127


def finish_vectors(
    pooled: WireTensor, dimensions: int, *, normalize: bool, dtype: VectorDtype, single: bool
) -> pb.Embedding:
    """The vectors of one text, and what is needed to read them.

    Args:
        pooled: [spans, d], float32.
        dimensions: How many of the first dimensions are kept, before normalizing.
        normalize: Scale each vector to length 1; a zero vector stays zero.
        dtype: See :func:`encode_vectors` and :func:`quantize`.
        single: Whether the text has one vector, [dimensions], instead of [spans, dimensions].
    """
    vectors = np.frombuffer(pooled.data, "<f4").reshape(pooled.shape)[:, :dimensions]
    if normalize:
        wide = vectors.astype(np.float64)
        lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))  # np.linalg.norm takes longer
        vectors = (vectors / np.where(lengths == 0.0, 1.0, lengths)).astype("<f4")
    shape = (dimensions,) if single else vectors.shape
    if dtype == "int8":
        codes, scales = quantize(vectors)
        return pb.Embedding(vectors=make_tensor(dtype, shape, codes.tobytes()), scales=scales)
    return pb.Embedding(vectors=make_tensor(dtype, shape, encode_vectors(vectors, dtype)))


def quantize(
    vectors: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Vectors in eight bits: codes in [-127, 127], and a scale that fits each vector.

    Args:
        vectors: [n, d].

    Returns:
        Codes [n, d] = round(x / scale), and scales [n] = max|x| / 127. A vector of zeros has the
        scale 0. One with a value that is no number has such a scale too.
    """
    # In float64, where the scale of a tiny vector is no zero.
    largest = np.abs(vectors.astype(np.float64)).max(axis=1, keepdims=True)
    scales = (largest / INT8_MAX).astype("<f4")
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.rint(vectors / scales)
    # Nothing can be read from the codes where the scale is 0, infinite or no number.
    codes = np.where(np.isfinite(codes), codes, 0).clip(-INT8_MAX, INT8_MAX)
    return codes.astype(np.int8), scales[:, 0]


def encode_vectors(
    vectors: NDArray[np.float32], dtype: Literal["float32", "bfloat16", "float16", "binary"]
) -> bytes:
    """Row-major little-endian bytes of float32 vectors in another type.

    binary is one bit a dimension, set where the value is above zero; the first dimension is the
    highest bit of the first byte, as numpy.packbits has it.
    """
    match dtype:
        case "float32":
            return vectors.astype("<f4", copy=False).tobytes()
        case "float16":
            return vectors.astype("<f2").tobytes()
        case "bfloat16":
            return to_bfloat16(vectors)
        case "binary":
            return np.packbits(vectors > 0.0, axis=1).tobytes()


def to_bfloat16(vectors: NDArray[np.float32]) -> bytes:
    """The upper halves of the floats, rounded to nearest even."""
    bits = np.ascontiguousarray(vectors, "<f4").view("<u4")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    # Rounding would carry some NaNs into infinity: those keep their upper half, made quiet.
    nan = np.isnan(vectors)
    return np.where(nan, (bits >> 16) | 0x40, rounded >> 16).astype("<u2").tobytes()
