"""The largest entries and the log-sum-exp of logit rows: the native kernel and its torch twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from headstream.model.kernels import build
from headstream.model.kernels.library import function


class RowScan(NamedTuple):
    """What a scan finds in R rows."""

    values: Tensor  # float32 [R, K] largest first
    ids: Tensor  # int64 [R, K] their token ids; the lower id first among equals
    log_totals: Tensor  # float32 [R] log(sum(exp(row)))


ScanRows = Callable[[Tensor, int], RowScan]
"""(logits float32 [R, V], K) -> RowScan."""


def scan_rows_torch(logits: Tensor, count: int) -> RowScan:
    """The plain twin of the native kernel."""
    values, ids = logits.sort(dim=1, descending=True, stable=True)
    # Copies: what a request keeps of its row must not keep all sorted rows.
    return RowScan(values[:, :count].clone(), ids[:, :count].clone(), values.logsumexp(dim=1))


def load_native(cache_dir: Path) -> ScanRows:
    """The compiled kernel.

    Raises:
        KernelUnavailableError: it cannot be built here; use :func:`scan_rows_torch`.
    """
    compiled = function(build.load("scan_rows", cache_dir), "scan_rows", "piiippp")

    def scan(logits: Tensor, count: int) -> RowScan:
        logits = logits.contiguous()
        rows, width = logits.shape
        found = RowScan(
            torch.empty(rows, count),
            torch.empty(rows, count, dtype=torch.int64),
            torch.empty(rows),
        )
        compiled(logits.data_ptr(), rows, width, count, *(tensor.data_ptr() for tensor in found))
        return found

    return scan
