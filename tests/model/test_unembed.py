"""Logit rows and what is found in them: the kernel, its twin and the plain answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from headstream.model.kernels import Kernels
from headstream.model.kernels.unembed import LogitRows

LookThrough = Callable[..., LogitRows]
"""(rows [R, V], count, keep=(), targets=None): what is found in these very logits."""


@pytest.fixture
def look_through(kernels: Kernels) -> LookThrough:
    """Unembeds rows of the identity with the wanted logits as weights: every product is exact."""

    def look(logits: Tensor, count: int, keep: object = (), targets: object = None) -> LogitRows:
        rows = len(logits)
        weight = torch.nn.functional.pad(logits.T, (0, rows % 2)).contiguous()  # [V, d], d even
        x = torch.eye(rows, rows + rows % 2)  # [R, d]
        return kernels.unembed(weight, None)(x, count, keep, targets)  # type: ignore[arg-type]

    return look


def random_rows(rows: int, d_vocab: int, *, ties: bool = False, spread: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(d_vocab)
    numbers = torch.randn(rows, d_vocab, generator=generator) * spread
    if ties:
        return numbers.bfloat16().float()  # few digits: full of ties
    # So few that three products of tf32 numbers, which a GPU makes of one, are exact.
    return torch.round(numbers * 2**17) / 2**17 if spread == 4.0 else numbers


def plain_order(row: list[float]) -> list[int]:
    """Largest first, and the lower id first among equals."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))


# --- The largest entries and the sum ---


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("d_vocab", "count"),
    [(1, 1), (2, 1), (5, 5), (64, 64), (65, 64), (300, 64), (257, 1), (2049, 100), (30_011, 64)],
)
def test_equals_the_plain_answer(
    d_vocab: int, count: int, ties: bool, look_through: LookThrough
) -> None:
    rows = random_rows(3, d_vocab, ties=ties)
    found = look_through(rows, count)
    assert found.values.dtype == found.log_totals.dtype == torch.float32
    for r in range(3):
        order = plain_order(rows[r].tolist())[:count]
        assert found.ids[r].tolist() == order
        assert torch.equal(found.values[r], rows[r][order])
    exact = rows.double().logsumexp(1)
    torch.testing.assert_close(found.log_totals.double(), exact, atol=1e-6, rtol=3e-7)


@pytest.mark.parametrize("kind", ["rising", "falling", "equal", "steps"])
def test_orders_that_are_hard_on_a_threshold(kind: str, look_through: LookThrough) -> None:
    ramp = torch.arange(5000.0) / 100
    row = {"rising": ramp, "falling": -ramp, "equal": ramp * 0, "steps": ramp.floor()}[kind]
    found = look_through(row[None], 64)
    assert found.ids[0].tolist() == plain_order(row.tolist())[:64]


@pytest.mark.parametrize("scale", [0.0, 1e-3, 80.0, 1e4])
def test_totals_of_flat_and_peaked_rows(scale: float, look_through: LookThrough) -> None:
    rows = random_rows(2, 262_144, spread=1.0) * scale
    exact = rows.double().logsumexp(1)
    found = look_through(rows, 4)
    torch.testing.assert_close(found.log_totals.double(), exact, atol=1e-6, rtol=3e-7)
    assert (found.log_totals >= found.values[:, 0]).all()  # no probability above one


def test_large_and_infinite_entries(look_through: LookThrough) -> None:
    row = torch.full((1, 500), -math.inf)
    row[0, [400, 7, 250]] = torch.tensor([3e38, -3e38, 1.0])
    found = look_through(row, 4)
    assert found.ids[0].tolist() == [400, 250, 7, 0]
    assert found.log_totals.item() == pytest.approx(3e38)


# --- The product ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(("d_vocab", "d_model"), [(13, 7), (700, 32), (5003, 640), (20_011, 64)])
def test_logits_are_exact_sums(
    d_vocab: int, d_model: int, softcap: float | None, dtype: torch.dtype, kernels: Kernels
) -> None:
    """Sums of bfloat16 products are not rounded to it."""
    weight, x = (
        random_rows(d_vocab, d_model).to(dtype),
        random_rows(37, d_model, spread=1).to(dtype),
    )
    exact = x.double() @ weight.double().T
    if softcap is not None:
        exact = softcap * torch.tanh(exact / softcap)
    found = kernels.unembed(weight, softcap)(x, 1, range(37))
    assert found.kept.dtype == torch.float32
    torch.testing.assert_close(found.kept.double(), exact, atol=2**-15 * d_model**0.5, rtol=2**-17)


@pytest.mark.parametrize("rows", [1, 6, 7, 64, 65, 128, 129, 300])
def test_keeps_the_rows_asked_for(rows: int, kernels: Kernels) -> None:
    unembed = kernels.unembed(random_rows(3001, 16), None)
    x = random_rows(rows, 16)
    everything = unembed(x, 5, range(rows))
    keep = list(range(0, rows, 3))
    some = unembed(x, 5, keep)
    assert torch.equal(some.kept, everything.kept[keep])
    assert torch.equal(some.ids, everything.ids)
    assert unembed(x, 5, ()).kept.shape == (0, 3001)


# --- Chosen tokens ---


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("d_vocab", [5, 700, 30_011])
def test_ranks_and_entropies(d_vocab: int, ties: bool, look_through: LookThrough) -> None:
    rows = random_rows(8, d_vocab, ties=ties)
    order = [plain_order(row.tolist()) for row in rows]
    ranks = [0, 1, 4, d_vocab - 1, d_vocab // 2, 3, 2, d_vocab // 3]
    targets = torch.tensor([order[r][rank] for r, rank in enumerate(ranks)])
    found = look_through(rows, 1, (), targets).targets
    assert found is not None
    assert found.ranks.tolist() == ranks
    assert torch.equal(found.logits, rows.gather(1, targets[:, None])[:, 0])
    exact = torch.distributions.Categorical(logits=rows.double()).entropy()
    torch.testing.assert_close(found.entropies.double(), exact, atol=2e-6, rtol=1e-6)


def test_some_rows_have_no_target(look_through: LookThrough) -> None:
    rows = random_rows(4, 900)
    targets = torch.tensor([3, -1, 7, -1])
    some = look_through(rows, 2, (), targets).targets
    both = look_through(rows, 2, (), torch.tensor([3, 5, 7, 9])).targets
    assert some is not None
    assert both is not None
    for one, other in zip(some, both, strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]])
    assert look_through(rows, 2).targets is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_target_is_the_one_in_the_row(dtype: torch.dtype, kernels: Kernels) -> None:
    """Bit for bit, where its logit is found by a product of its own."""
    unembed = kernels.unembed(random_rows(5003, 640).to(dtype), 30.0)
    x = random_rows(70, 640, spread=0.1).to(dtype)
    targets = torch.arange(70) * 71
    found = unembed(x, 1, range(70), targets)
    assert found.targets is not None
    assert torch.equal(found.targets.logits, found.kept.gather(1, targets[:, None])[:, 0])
    for row in range(70):
        entries = found.kept[row].tolist()
        assert found.targets.ranks[row] == plain_order(entries).index(int(targets[row]))


# --- Bits ---


def _pieces(found: LogitRows) -> list[Tensor]:
    assert found.targets is not None
    return [*found[:4], *found.targets]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_row_has_the_same_bits_in_every_batch(
    dtype: torch.dtype, native_kernels: Kernels
) -> None:
    unembed = native_kernels.unembed(random_rows(20_011, 64).to(dtype), None)
    x = random_rows(300, 64, spread=0.5).to(dtype)
    targets = torch.arange(300) * 66
    many = _pieces(unembed(x, 64, range(300), targets))
    for begin, end in [(0, 1), (7, 8), (0, 7), (100, 164), (127, 129), (1, 300)]:
        part = unembed(x[begin:end], 64, range(end - begin), targets[begin:end])
        for one, other in zip(_pieces(part), many, strict=True):
            assert torch.equal(one, other[begin:end]), (begin, end)


def test_number_of_threads_changes_no_bit(native_kernels: Kernels) -> None:
    unembed = native_kernels.unembed(random_rows(50_257, 64).bfloat16(), None)
    x = random_rows(9, 64).bfloat16()
    results: list[list[Tensor]] = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(_pieces(unembed(x, 64, (4,), torch.arange(9) * 5000)))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_rows_need_not_be_contiguous(kernels: Kernels) -> None:
    unembed = kernels.unembed(random_rows(900, 8), None)
    x = random_rows(6, 8)
    for other in (x.T.contiguous().T, torch.cat([x, x], 1)[:, :8]):
        found, plain = unembed(other, 8, range(6)), unembed(x, 8, range(6))
        assert all(torch.equal(a, b) for a, b in zip(found[:4], plain[:4], strict=True))


# --- The edges ---


@pytest.mark.parametrize("nan_at", [[0], [3, 50, 51, 999], range(1000)])
def test_not_a_number(nan_at, look_through: LookThrough) -> None:
    """The ids stay ids, and the total says that something is wrong."""
    row = random_rows(1, 1000)
    row[0, list(nan_at)] = math.nan
    found = look_through(row, 64)
    ids = found.ids[0].tolist()
    assert len(set(ids)) == 64
    assert 0 <= min(ids) <= max(ids) < 1000
    assert found.log_totals[0].isnan()


def test_a_row_of_nan_harms_no_other(kernels: Kernels) -> None:
    unembed = kernels.unembed(random_rows(1000, 8), None)
    x = random_rows(2, 8)
    clean = unembed(x, 64, range(2))
    x[0] = math.nan
    for broken, whole in zip(unembed(x, 64, range(2))[:4], clean[:4], strict=True):
        assert torch.equal(broken[1], whole[1])


def test_no_rows(kernels: Kernels) -> None:
    found = kernels.unembed(random_rows(100, 8), None)(torch.empty(0, 8), 7, ())
    assert found.ids.shape == (0, 7)
    assert found.log_totals.shape == (0,)
    assert found.kept.shape == (0, 100)
