from __future__ import annotations

import numpy as np
import pytest

from headstream.server.engine.stream import WireTensor
from headstream.server.wire.tensors import CHUNK_BYTES, VectorDtype, cut_bytes, cut_rows, put_tensor
from headstream.server.wire.tensors import vector_bytes as size_of
from headstream.v1 import tensor_pb2


@pytest.mark.parametrize("extra", [0, 1])
def test_bytes_are_cut_at_one_mebibyte(extra: int) -> None:
    data = bytes(CHUNK_BYTES) + bytes(extra)
    parts = list(cut_bytes(data))
    assert [len(part) for _, part in parts] == [CHUNK_BYTES] + [1] * extra
    assert b"".join(part for _, part in parts) == data
    assert parts[-1][0] == CHUNK_BYTES * extra


def test_rows_are_cut_whole() -> None:
    values = np.arange(3000 * 300, dtype="<f4").reshape(3000, 300)
    parts = list(cut_rows(WireTensor("float32", values.shape, values.tobytes())))
    assert all(len(part.data) <= CHUNK_BYTES for _, part in parts)
    assert [first for first, _ in parts] == [0, *np.cumsum([p.shape[0] for _, p in parts])[:-1]]
    joined = b"".join(part.data for _, part in parts)
    assert joined == values.tobytes()


def test_a_row_over_the_limit_goes_alone() -> None:
    row = CHUNK_BYTES // 4 + 1
    tensor = WireTensor("float32", (2, row), bytes(8 * row))
    assert [part.shape for _, part in cut_rows(tensor)] == [(1, row), (1, row)]


def test_no_rows_no_chunks() -> None:
    assert list(cut_rows(WireTensor("float32", (0, 4), b""))) == []


def test_message() -> None:
    message = tensor_pb2.Tensor()
    put_tensor(message, WireTensor("bfloat16", (1, 2), b"abcd"))
    assert message == tensor_pb2.Tensor(
        dtype=tensor_pb2.DATA_TYPE_BFLOAT16, shape=[1, 2], data=b"abcd"
    )


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", 36), ("bfloat16", 18), ("float16", 18), ("int8", 13), ("binary", 2)],
)
def test_sizes(dtype: VectorDtype, size: int) -> None:
    assert size_of(dtype, 9) == size
