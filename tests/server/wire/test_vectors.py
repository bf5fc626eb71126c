from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import front_values
from headstream.server.wire.tensors import VectorDtype
from headstream.server.wire.vectors import (
    encode_vectors,
    finish_vectors,
    quantize,
    to_bfloat16,
)
from headstream.v1 import tensor_pb2

VECTORS = np.array([[3.0, 4.0, 100.0], [0.0, 0.0, 0.0]], dtype="<f4")


def finish(dtype: VectorDtype = "float32", **changes: bool) -> tensor_pb2.Tensor:
    settings = {"normalize": True, "single": False, **changes}
    return finish_vectors(front_values.float_tensor(VECTORS), 2, dtype=dtype, **settings).vectors


def test_dimensions_are_kept_before_normalizing() -> None:
    tensor = finish()
    assert list(tensor.shape) == [2, 2]
    np.testing.assert_allclose(np.frombuffer(tensor.data, "<f4"), [0.6, 0.8, 0.0, 0.0])


def test_without_normalizing() -> None:
    assert list(np.frombuffer(finish(normalize=False).data, "<f4")) == [3, 4, 0, 0]


def test_one_vector_has_one_axis() -> None:
    embedding = finish_vectors(
        front_values.float_tensor(VECTORS[:1]), 3, normalize=False, dtype="float32", single=True
    )
    assert list(embedding.vectors.shape) == [3]
    assert not embedding.scales


def test_int8_has_a_scale_for_each_vector() -> None:
    rows = np.array([[0.5, -1.0, 0.25], [0, 0, 0], [100, 3, -7]], "<f4")
    embedding = finish_vectors(
        front_values.float_tensor(rows), 3, normalize=False, dtype="int8", single=False
    )
    assert embedding.vectors.dtype == tensor_pb2.DATA_TYPE_INT8
    codes = np.frombuffer(embedding.vectors.data, "i1").reshape(3, 3)
    assert codes.tolist() == [[64, -127, 32], [0, 0, 0], [127, 4, -9]]
    assert list(embedding.scales) == [np.float32(1 / 127), 0, np.float32(100 / 127)]


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
def test_int8_is_off_by_half_a_step_at_most(rows: np.ndarray) -> None:
    codes, scales = quantize(rows)
    largest = np.abs(rows.astype(np.float64)).max(axis=1)
    fine = largest > 1e-30  # below, the scale itself has few bits
    wrong = np.abs(codes * scales[:, None].astype(np.float64) - rows)[fine]
    assert (wrong <= largest[fine, None] / 127 * 0.5001).all()
    assert (np.abs(codes[fine]).max(axis=1, initial=0) == 127).all()


def test_int8_of_what_is_no_number_is_no_number() -> None:
    codes, scales = quantize(np.array([[np.nan, 1], [np.inf, 1]], "<f4"))
    assert not codes.any()
    assert not np.isfinite(scales).any()


def test_binary_is_the_sign_first_dimension_highest() -> None:
    row = np.array([[1, -1, 0, 2, -3, -1, -1, 5, 1]], "<f4")
    assert encode_vectors(row, "binary") == bytes([0b10010001, 0b10000000])


@given(hnp.arrays(np.float32, 4, elements=st.floats(width=32)))
def test_bfloat16_is_rounded_as_torch_does(values: np.ndarray) -> None:
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    found = np.frombuffer(to_bfloat16(values), "<u2")
    number = ~np.isnan(values)
    assert (found[number] == expected[number]).all()
    back = (found.astype("<u4") << 16).view("<f4")
    assert np.isnan(back[~number]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_have_two_bytes(dtype: VectorDtype) -> None:
    assert len(finish(dtype).data) == 8
