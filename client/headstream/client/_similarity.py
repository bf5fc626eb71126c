"""How alike vectors are: arrays for arrays, tensors for tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from headstream.client._torch_tensors import is_tensor, to_tensor

if TYPE_CHECKING:
    from headstream.client._results import Array

SimilarityName: TypeAlias = Literal["cosine", "dot"]
SIMILARITIES: tuple[SimilarityName, ...] = get_args(SimilarityName)


def similarity(
    name: SimilarityName,
    first: Any,
    second: Any,
    *,
    pairwise: bool = False,
) -> Any:
    """Of each of the first [n, d] with each of the second [m, d], or with its counterpart alone.

    Either may be an array, a tensor, a list of such of [d], or a single [d].

    Returns:
        [n, m], or [n] with `pairwise`; float32. A tensor where either of them is one.
    """
    left, right = _rows(first), _rows(second)
    if name == "cosine":
        left, right = _scaled(left), _scaled(right)
    scores: Array = (left * right).sum(1) if pairwise else left @ right.T
    return to_tensor(scores) if is_tensor(first) or is_tensor(second) else scores


def _rows(vectors: Any) -> Array:
    """Float32 [n, d]."""
    whole: Any = vectors if hasattr(vectors, "shape") else [np.asarray(row) for row in vectors]
    return np.atleast_2d(np.asarray(whole, np.float32))


def _scaled(rows: Array) -> Array:
    """Of length 1; a row of zeros stays."""
    scaled: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled
