"""Scores of rows beside a float64 textbook, and their bits in any company."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from headstream.model import heads
from headstream.model.batch import ScoreRequest
from headstream.model.families.base import Model
from headstream.model.heads import LEADING, finish_scores
from headstream.model.kernels import Kernels
from headstream.model.layers.unembedding import Unembedding
from headstream.model.outputs import LogitsSpec
from headstream.model.scoring import RowScores, score_rows
from model_reference import PLAIN_KERNELS


def make_rows(count: int, width: int, *, spread: float = 4.0) -> tuple[Tensor, Tensor]:
    """Logits and targets, not all of them likely or unlikely."""
    generator = torch.Generator().manual_seed(width)
    logits = torch.randn(count, width, generator=generator) * spread
    return logits, torch.randint(width, (count,), generator=generator)


def score(logits: Tensor, targets: Tensor) -> RowScores:
    return score_rows(logits, targets, logits.double().logsumexp(1).float())


def textbook(row: list[float], target: int) -> tuple[float, int, float]:
    """By the definitions, one number at a time."""
    largest = max(row)
    total = math.fsum(math.exp(x - largest) for x in row)
    logprobs = [x - largest - math.log(total) for x in row]
    rank = sum(x > row[target] or (x == row[target] and i < target) for i, x in enumerate(row))
    return logprobs[target], rank, -math.fsum(math.exp(lp) * lp for lp in logprobs)


@pytest.mark.parametrize("spread", [0.01, 4.0, 40.0])
@pytest.mark.parametrize(("count", "width"), [(1, 1), (3, 2), (9, 1000), (17, 65_537)])
def test_scores_are_those_of_the_textbook(count: int, width: int, spread: float) -> None:
    logits, targets = make_rows(count, width, spread=spread)
    found = score(logits, targets)
    expected = [
        textbook(row, target) for row, target in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    for got, wanted in zip(
        zip(*(each.tolist() for each in found), strict=True), expected, strict=True
    ):
        assert got == pytest.approx(wanted, abs=1e-5, rel=1e-6)
        assert got[1] == wanted[1]
    assert [each.dtype for each in found] == [torch.float32, torch.int64, torch.float32]


def test_a_uniform_and_a_certain_row() -> None:
    certain = torch.zeros(1, 300)
    certain[0, 7] = 200.0
    uniform = score(torch.full((1, 300), 2.5), torch.tensor([299]))
    sure = score(certain, torch.tensor([7]))
    assert float(uniform.entropies) == pytest.approx(math.log(300), abs=1e-5)
    assert int(uniform.ranks) == 299, "the lower id goes first among equals"
    assert (float(sure.logprobs), int(sure.ranks), float(sure.entropies)) == (0.0, 0, 0.0)


@pytest.mark.parametrize("width", [1000, 100_003])
def test_a_row_has_its_own_bits(width: int) -> None:
    """Whichever rows are beside it, and with any number of threads."""
    logits, targets = make_rows(20, width)
    whole = score(logits, targets)
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        for rows in (slice(0, 1), slice(3, 5), slice(7, 20), slice(0, 20)):
            part = score(logits[rows], targets[rows])
            for found, expected in zip(part, whole, strict=True):
                assert torch.equal(found, expected[rows]), (threads, rows)


def test_a_lone_sum_would_depend_on_the_threads() -> None:
    """Negative control: why both sums of a row are taken in one call."""
    row = make_rows(1, 1 << 18)[0][0].exp()
    sums = set[float]()
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        sums.add(float(row.sum()))
    assert len(sums) > 1


# --- Ranges of rows, unembedded in slices ---


class Tiny:
    """Only the end of a model."""

    def __init__(self, d_vocab: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.unembed = Unembedding(
            torch.randn(d_vocab, 16, generator=generator), None, PLAIN_KERNELS
        )

    def final_norm(self, resid: Tensor) -> Tensor:
        return resid * 0.5


V = 700
SPECS = [
    LogitsSpec(),
    LogitsSpec("top", top_k=5),
    LogitsSpec("top", top_k=LEADING + 1, logprobs=True),
    LogitsSpec("chosen", token_ids=(9, 3), dtype="bfloat16"),
    LogitsSpec("full", logprobs=True, dtype="float16"),
]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_ranges_come_apart_as_they_went_in(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Of requests of several lengths and wishes, in slices that cut across them."""
    monkeypatch.setattr(heads, "SLICE", size)
    model: Any = Tiny(V)
    generator = torch.Generator().manual_seed(2)
    lengths = (3, 70, 1, 130, 20)
    resid = torch.randn(sum(lengths), 16, generator=generator)
    targets = torch.randint(V, (sum(lengths),), generator=generator).split(lengths)
    requests = tuple(map(ScoreRequest, targets, SPECS))
    results = finish_scores(cast(Model, model), resid, requests, kernels.scan_rows)
    assert len(results) == len(requests)
    for result, rows, request in zip(results, resid.split(lengths), requests, strict=True):
        logits = model.unembed(model.final_norm(rows))
        expected = score(logits, request.targets)
        torch.testing.assert_close(result.scores, expected, atol=1e-5, rtol=1e-5)
        spec = request.logits
        if spec.mode == "none":
            assert result.values is result.value_ids is None
            continue
        assert result.values is not None
        row = logits.double().log_softmax(1) if spec.logprobs else logits.double()
        ids = torch.tensor(spec.token_ids or range(V)).expand(len(rows), -1)
        if spec.mode == "top":
            assert result.value_ids is not None
            ids = result.value_ids
            assert torch.equal(ids, logits.topk(spec.top_k).indices)
        close = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}[spec.dtype]
        assert str(result.values.dtype) == f"torch.{spec.dtype}"
        torch.testing.assert_close(
            result.values.double(), row.gather(1, ids), atol=1e-4, rtol=close
        )


def test_nothing_to_score(kernels: Kernels) -> None:
    model: Any = Tiny(V)
    assert finish_scores(cast(Model, model), torch.empty(0, 16), (), kernels.scan_rows) == []
