"""Rows to vectors, by hand."""

from __future__ import annotations

import pytest
import torch

from headstream.model.outputs import PoolSpec
from headstream.model.pooling import pool

ROWS = torch.tensor([[1.0, -4.0], [3.0, 0.5], [-2.0, 8.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("kind", "span", "vector"),
    [
        ("mean", (0, 1), [2.0, -1.75]),
        ("mean", (0, 1, 2, 3), [0.5, 1.125]),
        ("mean", (2,), [-2.0, 8.0]),
        ("max", (0, 1, 3), [3.0, 0.5]),
        ("max", (0,), [1.0, -4.0]),  # not the zero of a padded row
        ("last", (0, 1, 2), [-2.0, 8.0]),
        ("last", (1,), [3.0, 0.5]),
        ("cls", (1, 2), [3.0, 0.5]),
    ],
)
def test_one_span(kind, span, vector) -> None:
    assert pool(ROWS, PoolSpec(-1, kind, (span,))).tolist() == [vector]


def test_spans_overlap_and_skip_rows() -> None:
    vectors = pool(ROWS, PoolSpec(-1, "mean", ((0, 2), (0, 1, 2, 3), (0, 2))))
    assert vectors.tolist() == [[-0.5, 2.0], [0.5, 1.125], [-0.5, 2.0]]


@pytest.mark.parametrize("kind", ["mean", "max", "last", "cls"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_vectors_are_float32(kind, dtype) -> None:
    vectors = pool(ROWS.to(dtype), PoolSpec(-1, kind, ((0, 3), (1, 2))))
    assert vectors.dtype == torch.float32
    assert vectors.shape == (2, 2)


def test_long_means_add_up_in_float32() -> None:
    """In bfloat16 a sum of ones stops growing at 256."""
    rows = torch.ones(5000, 3, dtype=torch.bfloat16)
    assert pool(rows, PoolSpec(0, "mean", (tuple(range(5000)),))).tolist() == [[1.0] * 3]


def test_a_vector_depends_on_its_own_span_alone() -> None:
    rows = torch.randn(700, 64)
    spans = tuple(tuple(range(a, a + 100)) for a in range(0, 600, 37))
    together = pool(rows, PoolSpec(-1, "mean", spans))
    for span, vector in zip(spans, together, strict=True):
        assert torch.equal(pool(rows, PoolSpec(-1, "mean", (span,)))[0], vector)
        assert torch.equal(pool(rows[: span[-1] + 1], PoolSpec(-1, "mean", (span,)))[0], vector)


def test_vectors_do_not_share_memory_with_the_rows() -> None:
    rows = ROWS.clone()
    vectors = pool(rows, PoolSpec(-1, "cls", ((0,),)))
    rows.zero_()
    assert vectors.tolist() == [[1.0, -4.0]]
