"""Rows of logits of ours beside those of the reference in float32: how far apart, and what it does.

Whole rows are written to files, since a row is a MiB with a large vocabulary. Nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.contenders.registry import REFERENCE, SHOWS_LOGITS, Prompts
from bench.worker import Worker

COMPARED_PROMPTS = 4
WITHIN = 1e-4  # of the reference's logits, in float32
EXACT = "float32"

Rows = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


def compare_all(
    workers: Mapping[str, Worker],
    prompts: Prompts,
    dtype: str,
    start_exact: Callable[[], Worker],
) -> list[dict[str, Any]]:
    """Ask for the rows behind all tokens of some prompts, and compare them.

    Args:
        workers: The contenders by name, which compute in ``dtype``.
        prompts: The first of them are asked for.
        dtype: In float32 rows of ours must lie near the reference's; else they are reported, and
            so are the reference's own in that dtype.
        start_exact: Starts the reference in float32.

    Returns:
        An entry for each contender that shows its logits; none without the reference.
    """
    if REFERENCE not in workers:
        return []
    exact = dtype == EXACT
    shown = [name for name in workers if name in SHOWS_LOGITS and not (exact and name == REFERENCE)]
    with TemporaryDirectory() as folder:

        def rows_of(worker: Worker) -> Rows:
            path = Path(folder) / "rows.npy"
            worker.call("logits", prompts=prompts[:COMPARED_PROMPTS], path=str(path))
            rows: Rows = np.load(path)  # [P, T - 1, V]
            path.unlink()
            return rows.reshape(-1, rows.shape[-1])  # [P * (T - 1), V]

        with nullcontext(workers[REFERENCE]) if exact else start_exact() as reference:
            right = rows_of(reference)
        against = REFERENCE if exact else f"{REFERENCE} in {EXACT}"
        return [
            {
                "of": name,
                "against": against,
                "required": exact,
                **compare(rows_of(workers[name]), right),
            }
            for name in shown
        ]


def compare(found: Rows, right: Rows) -> dict[str, Any]:
    """How far rows [n, V] lie from the right ones.

    Returns:
        ``positions`` n; ``apart``, the largest difference of two logits (NaN where one is);
        ``divergence``, the mean over rows of KL(right || found) of the next token, in nats; and
        ``same_first``, the share of rows whose largest logit is the same token's.

    Raises:
        RuntimeError: There are more rows or fewer, or longer ones.
    """
    if found.shape != right.shape:
        raise RuntimeError(f"logits {found.shape} came back, {right.shape} expected")
    apart, divergence = [], []
    for mine, theirs in zip(found, right, strict=True):  # a row at a time: they are long
        apart.append(np.abs(mine - theirs).max())
        divergence.append(_divergence(theirs.astype(np.float64), mine.astype(np.float64)))
    return {
        "positions": len(found),
        "apart": float(np.max(apart)),
        "divergence": float(np.mean(divergence)),
        "same_first": float(np.mean(found.argmax(axis=1) == right.argmax(axis=1))),
    }


def is_near(compared: Mapping[str, Any]) -> bool:
    """Whether the rows lie where they must."""
    return not compared["required"] or compared["apart"] <= WITHIN


def _divergence(right: Values, found: Values) -> float:
    """KL(right || found) of the softmax of two rows of logits [V], nats."""
    right, found = _log_softmax(right), _log_softmax(found)
    return float(np.sum(np.exp(right) * (right - found)))


def _log_softmax(logits: Values) -> Values:
    shifted = logits - logits.max()
    return shifted - np.log(np.sum(np.exp(shifted)))
