"""Scores of ranges of rows, unembedded in slices, beside plain sums in float64."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from headstream.model import heads
from headstream.model.batch import LEADING, ScoreRequest
from headstream.model.families.base import Model
from headstream.model.kernels import Kernels
from headstream.model.layers.unembedding import Unembedding
from headstream.model.outputs import LogitsSpec
from headstream.model.scoring import finish_scores
from model_reference import PLAIN_KERNELS


class Tiny:
    """Only the end of a model."""

    def __init__(self, d_vocab: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.unembed = Unembedding(
            torch.randn(d_vocab, 16, generator=generator), None, PLAIN_KERNELS, d_vocab
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
    results = finish_scores(cast(Model, model), resid, requests)
    assert len(results) == len(requests)
    for result, rows, request in zip(results, resid.split(lengths), requests, strict=True):
        logits = model.unembed(model.final_norm(rows))
        log_p = logits.double().log_softmax(1)
        chosen = log_p.gather(1, request.targets[:, None])  # [n, 1]
        entropies = -(log_p.exp() * log_p).sum(1)
        for found, exact in zip(
            (result.scores.logprobs, result.scores.entropies),
            (chosen[:, 0], entropies),
            strict=True,
        ):
            torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)
        assert torch.equal(result.scores.ranks, (log_p > chosen).sum(1))
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
    assert finish_scores(cast(Model, model), torch.empty(0, 16), ()) == []
