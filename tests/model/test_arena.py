"""Memory for packed weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headstream.model.allocator import HUGE_PAGE
from headstream.model.kernels.arena import Arena

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_bytes() -> int:
    """Bytes of this process that lie in huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    [kib] = [line.split()[1] for line in lines if line.startswith("AnonHugePages")]
    return int(kib) << 10


def test_tensors_lie_apart_and_keep_what_is_written() -> None:
    arena = Arena()
    shapes = [(3, 5), (1,), (70_000, 16), (1 << 23,), (1 << 24, 2), (7,)]
    dtypes = [torch.float32, torch.int8, torch.bfloat16, torch.float32, torch.int8, torch.bfloat16]
    tensors = [arena.empty(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    for number, tensor in enumerate(tensors):
        tensor.fill_(number)
    for number, (tensor, shape, dtype) in enumerate(zip(tensors, shapes, dtypes, strict=True)):
        assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype)
        assert tensor.data_ptr() % 64 == 0
        assert bool((tensor == number).all())


@pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text(), reason="the system has no huge pages"
)
def test_weights_lie_in_huge_pages() -> None:
    before = huge_bytes()
    plain = torch.zeros(16 << 20)  # the control, where the system gives them to those who ask
    if "[madvise]" in THP.read_text():
        assert huge_bytes() - before < plain.nbytes // 2
    before = huge_bytes()
    weights = Arena().empty((24 << 20,), torch.float32).zero_()
    gained = huge_bytes() - before
    if gained == 0:
        pytest.skip("the system has no huge page left")
    assert gained >= weights.nbytes - 2 * HUGE_PAGE
