"""Tensors of the Open Inference Protocol: texts and token ids come in, arrays go out."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from headstream.open_inference import inference_pb2 as pb
from headstream.server.errors import InvalidRequest
from headstream.server.limits import Limits
from headstream.server.wire.fields import check_count, check_int
from headstream.v1 import types_pb2

TEXT, INPUT_IDS = "text", "input_ids"

_LENGTH = struct.Struct("<I")  # before each element of BYTES
_ID_TYPES = {"INT32": "<i4", "INT64": "<i8"}
_DATATYPES = {"float32": "FP32", "int32": "INT32"}

Tensor = pb.ModelInferRequest.InferInputTensor


def parse_inputs(
    request: pb.ModelInferRequest, limits: Limits, *, skip_special: bool
) -> tuple[str, list[types_pb2.Input]]:
    """The name of the one tensor of a request, and the inputs that its rows are."""
    if len(request.inputs) != 1:
        names = f"{len(request.inputs)} tensors; one of {TEXT} and {INPUT_IDS} is taken"
        raise InvalidRequest("inputs", f"has {names}")
    [tensor] = request.inputs
    if tensor.parameters.keys() - {
        "binary_data_size"
    }:  # KServe's client says it, and sends the data
        raise InvalidRequest("inputs[0].parameters", "none is known; send the elements themselves")
    raw = _raw(request, tensor)
    if tensor.name == TEXT:
        return TEXT, [
            types_pb2.Input(text=text, skip_special_tokens=skip_special)
            for text in _texts(tensor, raw, limits)
        ]
    if tensor.name == INPUT_IDS:
        return INPUT_IDS, [
            types_pb2.Input(token_ids=types_pb2.TokenIds(ids=row))
            for row in _ids(tensor, raw, limits)
        ]
    raise InvalidRequest("inputs[0].name", f"{tensor.name[:100]!r} is not {TEXT} or {INPUT_IDS}")


def _raw(request: pb.ModelInferRequest, tensor: Tensor) -> bytes | None:
    if not request.raw_input_contents:
        return None
    if len(request.raw_input_contents) != 1 or tensor.HasField("contents"):
        raise InvalidRequest("raw_input_contents", "must have one entry, without inputs.contents")
    return request.raw_input_contents[0]


def _texts(tensor: Tensor, raw: bytes | None, limits: Limits) -> list[str]:
    if tensor.datatype != "BYTES":
        raise InvalidRequest(f"{TEXT}.datatype", f"{tensor.datatype[:20]!r} is not BYTES")
    if len(tensor.shape) not in {1, 2} or tensor.shape[1:] not in ([], [1]):
        raise InvalidRequest(f"{TEXT}.shape", f"{list(tensor.shape)[:9]} is not [n] or [n, 1]")
    num_texts = check_int(f"{TEXT}.shape[0]", tensor.shape[0], 1, limits.max_inputs)
    if raw is None:
        elements = list(tensor.contents.bytes_contents)
    else:  # a length of 0 takes four bytes: count before there are a million
        elements = list(islice(_cut(raw), num_texts + 1))
    check_count(TEXT, elements, num_texts, num_texts)
    return [_decode(f"{TEXT}[{i}]", element) for i, element in enumerate(elements)]


def _decode(field: str, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(field, f"is no UTF-8 at byte {error.start}") from None


def _cut(raw: bytes) -> Iterator[bytes]:
    """The elements of BYTES."""
    at = 0
    while at < len(raw):
        start = at + _LENGTH.size
        if start > len(raw):
            raise InvalidRequest("raw_input_contents[0]", f"ends in the length at byte {at}")
        at = start + _LENGTH.unpack_from(raw, at)[0]
        if at > len(raw):
            raise InvalidRequest("raw_input_contents[0]", f"ends in the element at byte {start}")
        yield raw[start:at]


def _ids(tensor: Tensor, raw: bytes | None, limits: Limits) -> list[list[int]]:
    """Rows of token ids, none of them negative."""
    dtype = _ID_TYPES.get(tensor.datatype)
    if dtype is None:
        kinds = "INT32 or INT64"
        raise InvalidRequest(f"{INPUT_IDS}.datatype", f"{tensor.datatype[:20]!r} is not {kinds}")
    if len(tensor.shape) not in {1, 2}:
        shape = f"{list(tensor.shape)[:9]} is not [length] or [n, length]"
        raise InvalidRequest(f"{INPUT_IDS}.shape", shape)
    num_rows, length = (1, *tensor.shape)[-2:]
    check_int(f"{INPUT_IDS}.shape[0]", num_rows, 1, limits.max_inputs)
    check_int(f"{INPUT_IDS}.shape[{len(tensor.shape) - 1}]", length, 1, limits.max_model_len)
    if raw is None:
        contents = tensor.contents
        listed = contents.int_contents if dtype == "<i4" else contents.int64_contents
        elements = np.array(listed, dtype)
    elif len(raw) == num_rows * length * np.dtype(dtype).itemsize:
        elements = np.frombuffer(raw, dtype)
    else:
        raise InvalidRequest("raw_input_contents[0]", f"{len(raw)} bytes do not fit the shape")
    check_count(INPUT_IDS, elements, num_rows * length, num_rows * length)
    wrong = np.flatnonzero((elements < 0) | (elements >= limits.d_vocab))
    if len(wrong):
        row, column = divmod(int(wrong[0]), length)
        name = f"{INPUT_IDS}[{row}][{column}]"
        check_int(name, int(elements[wrong[0]]), 0, limits.d_vocab - 1)
    rows: list[list[int]] = elements.reshape(num_rows, length).tolist()  # [n, length]
    return rows


def put_array(into: pb.ModelInferResponse, name: str, array: NDArray[np.generic]) -> None:
    """Add an output of float32 or int32."""
    into.outputs.add(name=name, datatype=_DATATYPES[array.dtype.name], shape=array.shape)
    into.raw_output_contents.append(array.tobytes())


def put_texts(into: pb.ModelInferResponse, name: str, texts: Sequence[str]) -> None:
    """Add an output of BYTES."""
    elements = [text.encode() for text in texts]
    into.outputs.add(name=name, datatype="BYTES", shape=[len(elements)])
    data = b"".join(_LENGTH.pack(len(element)) + element for element in elements)
    into.raw_output_contents.append(data)
