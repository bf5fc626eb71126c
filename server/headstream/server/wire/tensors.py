"""Tensors on the wire: element types, messages, and rows cut into chunks."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headstream.model.outputs import WireDtype
from headstream.server.engine.stream import WireTensor
from headstream.server.errors import InvalidRequest
from headstream.v1 import tensor_pb2

CHUNK_BYTES = 1 << 20
"""Most bytes of a tensor in one message of a stream, so that a default client takes it."""

VectorDtype = Literal["float32", "bfloat16", "float16", "int8", "binary"]

SCALE_BYTES = 4  # that each int8 vector brings
ITEM_BYTES: dict[WireDtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

_STORAGE: dict[WireDtype, str] = {"float32": "<f4", "bfloat16": "<u2", "float16": "<f2"}

_TO_PROTO: dict[str, tensor_pb2.DataType.ValueType] = {
    "float32": tensor_pb2.DATA_TYPE_FLOAT32,
    "bfloat16": tensor_pb2.DATA_TYPE_BFLOAT16,
    "float16": tensor_pb2.DATA_TYPE_FLOAT16,
    "int8": tensor_pb2.DATA_TYPE_INT8,
    "binary": tensor_pb2.DATA_TYPE_BINARY,
}
_FLOATS: dict[int, WireDtype] = {
    tensor_pb2.DATA_TYPE_UNSPECIFIED: "float32",
    tensor_pb2.DATA_TYPE_FLOAT32: "float32",
    tensor_pb2.DATA_TYPE_BFLOAT16: "bfloat16",
    tensor_pb2.DATA_TYPE_FLOAT16: "float16",
}
_VECTORS: dict[int, VectorDtype] = {
    **_FLOATS,
    tensor_pb2.DATA_TYPE_INT8: "int8",
    tensor_pb2.DATA_TYPE_BINARY: "binary",
}
VECTOR_TYPES = tuple(_TO_PROTO.values())


def parse_float_dtype(field: str, value: int) -> WireDtype:
    """Element type of rows and logits; float32 where none is asked for."""
    if value not in _FLOATS:
        raise InvalidRequest(field, "must be FLOAT32, BFLOAT16 or FLOAT16")
    return _FLOATS[value]


def parse_vector_dtype(field: str, value: int) -> VectorDtype:
    """Element type of pooled vectors; float32 where none is asked for."""
    if value not in _VECTORS:
        raise InvalidRequest(field, "must be FLOAT32, BFLOAT16, FLOAT16, INT8 or BINARY")
    return _VECTORS[value]


def vector_bytes(dtype: VectorDtype, dimensions: int) -> int:
    """Bytes of one vector."""
    if dtype == "int8":
        return dimensions + SCALE_BYTES
    if dtype == "binary":
        return (dimensions + 7) // 8
    return dimensions * ITEM_BYTES[dtype]


def make_tensor(dtype: VectorDtype, shape: tuple[int, ...], data: bytes) -> tensor_pb2.Tensor:
    """A tensor message."""
    return tensor_pb2.Tensor(dtype=_TO_PROTO[dtype], shape=shape, data=data)


def put_tensor(into: tensor_pb2.Tensor, tensor: WireTensor, *, data: bool = True) -> None:
    """Write a tensor from the engine into its place in a message.

    Without ``data`` its bytes come in chunks. In its place, because a message that is given to the
    constructor of another is copied, and so again on every level.
    """
    into.dtype = _TO_PROTO[tensor.dtype]
    into.shape.extend(tensor.shape)
    if data:
        into.data = tensor.data


def to_array(tensor: WireTensor) -> NDArray[np.generic]:
    """The elements as numpy stores them; of bfloat16 their bits."""
    return np.frombuffer(tensor.data, _STORAGE[tensor.dtype]).reshape(tensor.shape)


def put_int32(into: tensor_pb2.Tensor, values: NDArray[np.int32]) -> None:
    """Write whole numbers into their place in a message."""
    into.dtype = tensor_pb2.DATA_TYPE_INT32
    into.shape.extend(values.shape)
    into.data = values.astype("<i4").tobytes()


def cut_bytes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each chunk."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield start, data[start : start + CHUNK_BYTES]


def cut_rows(tensor: WireTensor) -> Iterator[tuple[int, WireTensor]]:
    """Index of the first row and the rows of each chunk: at most 1 MiB, or one row."""
    num_rows, *rest = tensor.shape
    row_bytes = prod(rest) * ITEM_BYTES[tensor.dtype]
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for start in range(0, num_rows, step):
        count = min(step, num_rows - start)
        data = tensor.data[start * row_bytes : (start + count) * row_bytes]
        yield start, WireTensor(tensor.dtype, (count, *rest), data)
