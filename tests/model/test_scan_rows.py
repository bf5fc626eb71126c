"""The scan of logit rows: the kernel, its twin and the plain answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from headstream.model.kernels import Kernels
from headstream.model.kernels.scan_rows import ScanRows


@pytest.fixture
def scan_rows(kernels: Kernels) -> ScanRows:
    return kernels.scan_rows


def random_rows(rows: int, d_vocab: int, *, ties: bool = False, spread: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(d_vocab)
    numbers = torch.randn(rows, d_vocab, generator=generator) * spread
    return numbers.bfloat16().float() if ties else numbers  # few digits: full of ties


def plain_order(row: list[float]) -> list[int]:
    """Largest first, and the lower id first among equals."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("d_vocab", "count"),
    [(1, 1), (2, 1), (5, 5), (64, 64), (65, 64), (300, 64), (257, 1), (2049, 100), (30_011, 64)],
)
def test_equals_the_plain_answer(d_vocab: int, count: int, ties: bool, scan_rows: ScanRows) -> None:
    rows = random_rows(3, d_vocab, ties=ties)
    found = scan_rows(rows, count)
    assert found.values.dtype == found.log_totals.dtype == torch.float32
    for r in range(3):
        order = plain_order(rows[r].tolist())[:count]
        assert found.ids[r].tolist() == order
        assert torch.equal(found.values[r], rows[r][order])
    exact = rows.double().logsumexp(1)
    torch.testing.assert_close(found.log_totals.double(), exact, atol=1e-6, rtol=3e-7)


@pytest.mark.parametrize("kind", ["rising", "falling", "equal", "steps"])
def test_orders_that_are_hard_on_a_threshold(kind: str, scan_rows: ScanRows) -> None:
    ramp = torch.arange(5000.0) / 100
    row = {"rising": ramp, "falling": -ramp, "equal": ramp * 0, "steps": ramp.floor()}[kind]
    found = scan_rows(row[None], 64)
    assert found.ids[0].tolist() == plain_order(row.tolist())[:64]


@pytest.mark.parametrize("scale", [0.0, 1e-3, 80.0, 1e4])
def test_totals_of_flat_and_peaked_rows(scale: float, scan_rows: ScanRows) -> None:
    rows = random_rows(2, 262_144, spread=1.0) * scale
    exact = rows.double().logsumexp(1)
    found = scan_rows(rows, 4)
    torch.testing.assert_close(found.log_totals.double(), exact, atol=1e-6, rtol=3e-7)
    assert (found.log_totals >= found.values[:, 0]).all()  # no probability above one


def test_large_and_infinite_entries(scan_rows: ScanRows) -> None:
    row = torch.full((1, 500), -math.inf)
    row[0, [400, 7, 250]] = torch.tensor([3e38, -3e38, 1.0])
    found = scan_rows(row, 4)
    assert found.ids[0].tolist() == [400, 250, 7, 0]
    assert found.log_totals.item() == pytest.approx(3e38)


@pytest.mark.parametrize("ties", [False, True])
def test_a_row_has_the_same_bits_in_every_batch(ties: bool, scan_rows: ScanRows) -> None:
    rows = random_rows(9, 5003, ties=ties)
    together = scan_rows(rows, 64)
    for r in range(9):
        alone = scan_rows(rows[r : r + 1], 64)
        for one, many in zip(alone, together, strict=True):
            assert torch.equal(one[0], many[r])


def test_rows_need_not_be_contiguous(scan_rows: ScanRows) -> None:
    rows = random_rows(4, 900)
    for one, other in zip(scan_rows(rows.T.contiguous().T, 8), scan_rows(rows, 8), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("nan_at", [[0], [3, 50, 51, 999], range(1000)])
def test_not_a_number(nan_at, scan_rows: ScanRows) -> None:
    """The ids stay ids, and the total says that something is wrong."""
    rows = random_rows(2, 1000)
    clean = scan_rows(rows, 64)
    rows[0, list(nan_at)] = math.nan
    found = scan_rows(rows, 64)
    assert sorted(set(found.ids[0].tolist())) == sorted(found.ids[0].tolist())
    assert found.ids[0].min() >= 0
    assert found.ids[0].max() < 1000
    assert found.log_totals[0].isnan()
    for broken, whole in zip(found, clean, strict=True):
        assert torch.equal(broken[1], whole[1])  # and nobody else notices


def test_no_rows(scan_rows: ScanRows) -> None:
    found = scan_rows(torch.empty(0, 100), 7)
    assert found.ids.shape == (0, 7)
    assert found.log_totals.shape == (0,)
