"""Requests of the Open Inference Protocol, with their tensors in either form."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from headstream.open_inference import inference_pb2 as pb

TYPES = {"FP32": "<f4", "INT32": "<i4"}


def parameter(value: bool | float | str) -> pb.InferParameter:
    match value:
        case bool():
            return pb.InferParameter(bool_param=value)
        case int():
            return pb.InferParameter(int64_param=value)
        case float():
            return pb.InferParameter(double_param=value)
        case str():
            return pb.InferParameter(string_param=value)


def of_texts(
    texts: Sequence[str], outputs: Sequence[str] = (), *, raw: bool = True, **parameters: Any
) -> pb.ModelInferRequest:
    request = _request(outputs, parameters)
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    elements = [text.encode() for text in texts]
    if raw:
        data = b"".join(struct.pack("<I", len(each)) + each for each in elements)
        request.raw_input_contents.append(data)
    else:
        tensor.contents.bytes_contents.extend(elements)
    return request


def of_ids(
    ids: Any,
    outputs: Sequence[str] = (),
    *,
    raw: bool = True,
    datatype: str = "INT64",
    **parameters: Any,
) -> pb.ModelInferRequest:
    request = _request(outputs, parameters)
    array = np.array(ids, "<i8" if datatype == "INT64" else "<i4")
    tensor = request.inputs.add(name="input_ids", datatype=datatype, shape=array.shape)
    if raw:
        request.raw_input_contents.append(array.tobytes())
    elif datatype == "INT64":
        tensor.contents.int64_contents.extend(array.ravel().tolist())
    else:
        tensor.contents.int_contents.extend(array.ravel().tolist())
    return request


def _request(outputs: Sequence[str], parameters: dict[str, Any]) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        id="mine",
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
        parameters={name: parameter(value) for name, value in parameters.items()},
    )


def arrays(reply: pb.ModelInferResponse) -> dict[str, Any]:
    """The outputs by name; of BYTES a list of strings."""
    return {
        output.name: _array(output, data)
        for output, data in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def _array(output: pb.ModelInferResponse.InferOutputTensor, data: bytes) -> Any:
    if output.datatype != "BYTES":
        return np.frombuffer(data, TYPES[output.datatype]).reshape(output.shape)
    texts: list[str] = []
    while data:
        end = 4 + struct.unpack_from("<I", data)[0]
        texts.append(data[4:end].decode())
        data = data[end:]
    assert list(output.shape) == [len(texts)]
    return texts
