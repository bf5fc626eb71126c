"""Between the contract's tensors and numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from headstream.v1 import tensor_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstream.client._results import Array

FloatType: TypeAlias = Literal["float32", "bfloat16", "float16"]
VectorType: TypeAlias = Literal["float32", "bfloat16", "float16", "int8", "binary"]

_WIRE_TYPES: Mapping[VectorType, pb.DataType.ValueType] = {
    "float32": pb.DATA_TYPE_FLOAT32,
    "bfloat16": pb.DATA_TYPE_BFLOAT16,
    "float16": pb.DATA_TYPE_FLOAT16,
    "int8": pb.DATA_TYPE_INT8,
    "binary": pb.DATA_TYPE_BINARY,
}

VECTOR_NAMES: Mapping[int, VectorType] = {number: name for name, number in _WIRE_TYPES.items()}

_STORAGE: Mapping[int, str] = {
    pb.DATA_TYPE_FLOAT32: "<f4",
    pb.DATA_TYPE_BFLOAT16: "<u2",  # widened to float32 below: numpy has no bfloat16
    pb.DATA_TYPE_FLOAT16: "<f2",
    pb.DATA_TYPE_INT8: "i1",
    pb.DATA_TYPE_BINARY: "u1",
    pb.DATA_TYPE_INT32: "<i4",
}


def wire_type(name: VectorType) -> pb.DataType.ValueType:
    """The contract's number of an element type.

    Raises:
        ValueError: There is no such type.
    """
    try:
        return _WIRE_TYPES[name]
    except KeyError:
        raise ValueError(f"dtype {name!r} is none of {', '.join(_WIRE_TYPES)}") from None


def to_array(tensor: pb.Tensor, data: bytes | bytearray | None = None) -> Array:
    """A tensor as an array.

    Args:
        tensor: Type, shape and, unless `data` is given, elements.
        data: Elements that came in parts, put together.

    Returns:
        float32 (from FLOAT32 and, widened without loss, BFLOAT16), float16, int8 or int32 of the
        tensor's shape; for BINARY uint8 with the last axis packed, eight dimensions to a byte
        (`unpack_binary` undoes it).

    Raises:
        ValueError: The bytes do not fit the type and shape.
    """
    storage = _STORAGE.get(tensor.dtype)
    if storage is None:
        raise ValueError(f"tensor of unknown type {tensor.dtype}")
    shape = [int(length) for length in tensor.shape]
    if tensor.dtype == pb.DATA_TYPE_BINARY and shape:
        shape[-1] = (shape[-1] + 7) // 8
    flat = np.frombuffer(tensor.data if data is None else data, dtype=storage)
    if tensor.dtype == pb.DATA_TYPE_BFLOAT16:
        flat = (flat.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return flat.reshape(shape)


def unpack_binary(packed: Array, dimensions: int) -> Array:
    """Binary vectors as numbers.

    Args:
        packed: uint8 [..., ceil(d / 8)], as they arrive: the first dimension is the highest bit of
            the first byte, as `np.packbits` has it.
        dimensions: d, which the bytes do not tell.

    Returns:
        int8 [..., d]: 1 where the value was above 0, -1 elsewhere. Products of such vectors are
        d - 2 * (number of bits that differ).

    Raises:
        ValueError: The bytes hold fewer or more dimensions.
    """
    if packed.shape[-1] != (dimensions + 7) // 8:
        raise ValueError(f"{packed.shape[-1]} bytes do not hold {dimensions} dimensions")
    bits = np.unpackbits(packed, axis=-1, count=dimensions).astype(np.int8)
    signs: Array = 2 * bits - 1
    return signs


def byte_length(tensor: pb.Tensor) -> int:
    """Bytes that the elements of a tensor take, from its type and shape.

    Raises:
        ValueError: The type is unknown.
    """
    storage = _STORAGE.get(tensor.dtype)
    if storage is None:
        raise ValueError(f"tensor of unknown type {tensor.dtype}")
    elements = int(np.prod([int(length) for length in tensor.shape], dtype=np.int64))
    return elements * np.dtype(storage).itemsize
