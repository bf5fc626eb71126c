import numpy as np
import pytest

from headstream.client._tensors import byte_length, to_array, unpack_binary, wire_type
from headstream.v1 import tensor_pb2 as pb


def test_bfloat16_is_widened_to_float32_without_loss():
    exact = np.array([[1.0, -2.5, 0.0], [3.0e38, 1e-30, -0.15625]], dtype=np.float32)
    upper = (exact.view(np.uint32) >> 16).astype("<u2")
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_BFLOAT16, shape=[2, 3], data=upper.tobytes())
    array = to_array(tensor)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array.view(np.uint32), upper.astype(np.uint32) << 16)


@pytest.mark.parametrize(
    ("wire", "numpy_type"),
    [
        (pb.DATA_TYPE_FLOAT32, np.float32),
        (pb.DATA_TYPE_FLOAT16, np.float16),
        (pb.DATA_TYPE_INT8, np.int8),
        (pb.DATA_TYPE_INT32, np.int32),
    ],
)
def test_other_types_arrive_as_they_are(wire, numpy_type):
    expected = np.arange(-6, 6).astype(numpy_type).reshape(3, 4)
    tensor = pb.Tensor(dtype=wire, shape=[3, 4], data=expected.tobytes())
    array = to_array(tensor)
    assert array.dtype == numpy_type
    np.testing.assert_array_equal(array, expected)
    assert byte_length(tensor) == len(tensor.data)


def test_binary_stays_packed_and_unpacks_with_numpy():
    bits = np.random.default_rng(0).integers(0, 2, (3, 20), dtype=np.uint8)
    packed = np.packbits(bits, axis=-1)
    array = to_array(pb.Tensor(dtype=pb.DATA_TYPE_BINARY, shape=bits.shape, data=packed.tobytes()))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(np.unpackbits(array, axis=-1, count=20), bits)


def test_binary_vectors_as_numbers():
    values = np.random.default_rng(1).normal(size=(4, 20))
    signs = unpack_binary(np.packbits(values > 0, axis=-1), 20)
    np.testing.assert_array_equal(signs, np.where(values > 0, 1, -1))
    with pytest.raises(ValueError, match="3 bytes do not hold 16 dimensions"):
        unpack_binary(np.zeros((4, 3), np.uint8), 16)


def test_bytes_that_do_not_fit_the_shape_are_refused():
    with pytest.raises(ValueError, match="reshape"):
        to_array(pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3], data=b"\0" * 8))
    with pytest.raises(ValueError, match="unknown type"):
        to_array(pb.Tensor(shape=[0]))


def test_unknown_names_of_types_list_the_known_ones():
    with pytest.raises(ValueError, match=r"float64.*bfloat16"):
        wire_type("float64")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
