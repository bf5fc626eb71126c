"""What the scan has found is used only where it gives the very draws that the whole row gives."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from headstream.model import ranking, sampler
from headstream.model.batch import LEADING, RowRequest
from headstream.model.outputs import LogitsSpec, SamplingParams
from headstream.model.ranking import Ranking
from leading_entries import leading

D_VOCAB = 20_000
SETTINGS = [
    SamplingParams(temperature=t, top_k=k, top_p=p, min_p=m)
    for t, k, p, m in itertools.product(
        (0.3, 0.8, 1.0, 1.4), (0, 5, 64, 300), (1.0, 0.95, 0.5), (0.0, 0.05)
    )
]


def want(params: SamplingParams, *, draw: int = 0, **fields: Any) -> RowRequest:
    fields = {"prompt_ids": [0], "output_ids": [], **fields}
    return RowRequest(params, LogitsSpec(), False, draw, **fields)


def row_of(kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(D_VOCAB, generator=generator)
    if kind == "ties":  # many of them, also where the scan ends
        return (row * 4).round()
    return row * {"flat": 0.3, "mixed": 2.0, "peaked": 6.0}[kind]


@pytest.mark.parametrize("kind", ["flat", "mixed", "peaked", "ties"])
def test_a_longer_scan_changes_no_draw(kind: str) -> None:
    """Kept tokens and their weights bit for bit, with 64, 7 and 2,000 entries known, and none."""
    for seed, params in itertools.product(range(3), SETTINGS):
        row = row_of(kind, seed)
        outcomes = []
        for count in (LEADING, 7, 2000, 0):
            values, ids, log_total = leading(row, max(1, count))
            known = (values, ids) if count else ranking.NOTHING
            made = Ranking(*known, row.numpy, log_total if count else None)
            with np.errstate(all="ignore"):
                weights, token_ids = sampler.candidates(made, params)
            tokens = b"" if token_ids is None else token_ids.tobytes()
            outcomes.append((weights.tobytes(), tokens))
        assert len(set(outcomes)) == 1, params


def test_the_row_is_left_alone_where_the_scan_is_enough() -> None:
    """A peaked row: the nucleus is certain whatever lies behind the scan."""

    def fail() -> Any:
        raise AssertionError("the row was read")

    row = row_of("peaked", 1)
    values, ids, log_total = leading(row)
    made = Ranking(values, ids, fail, log_total)
    for temperature in (0.4, 0.5, 1.0):
        assert len(made.nucleus(0.95, temperature).weigh(temperature)[0]) > 1
    made.first(64)
    made.above(0.05, 0.8)
    values, ids, log_total = leading(row_of("flat", 1))
    with pytest.raises(AssertionError):  # it is too flat for that
        Ranking(values, ids, fail, log_total).nucleus(0.95, 0.8)


@pytest.mark.parametrize("top_k", [0, 1, 40, 64])
@pytest.mark.parametrize("banned", [(), (3,), tuple(range(60))])
def test_rows_that_need_not_be_there(top_k: int, banned: tuple[int, ...]) -> None:
    """``needs_full_row`` is false: the scan alone gives the same tokens."""
    params = SamplingParams(temperature=0.9 if top_k else 0.0, top_k=top_k, top_p=0.9, seed=4)
    row = row_of("mixed", 5)
    row[torch.tensor(banned, dtype=torch.int64)] += 12.0  # they would be the first
    for draw in range(20):
        wanted = want(params, draw=draw, banned_ids=banned)
        full = sampler.choose(leading(row), row.numpy(), wanted)
        assert full not in banned
        if not wanted.needs_full_row:
            assert sampler.choose(leading(row), None, wanted) == full


def test_which_rows_are_needed() -> None:
    cheap = SamplingParams(temperature=1.0, top_k=60)
    assert not want(SamplingParams()).needs_full_row
    assert not want(cheap, banned_ids=(1, 2, 3, 4)).needs_full_row
    assert want(cheap, banned_ids=(1, 2, 3, 4, 5)).needs_full_row
    assert want(SamplingParams(), banned_ids=tuple(range(64))).needs_full_row
    assert want(SamplingParams(temperature=1.0)).needs_full_row
    assert want(SamplingParams(allowed_ids=(1,))).needs_full_row
    assert want(SamplingParams(logit_bias={1: 1.0})).needs_full_row
    assert want(SamplingParams(), mask=np.zeros(1, np.uint8)).needs_full_row


# --- What may be drawn at all ---


def mask_of(ids: list[int], d_vocab: int = D_VOCAB) -> np.ndarray:
    bits = np.zeros(d_vocab, np.uint8)
    bits[ids] = 1
    return np.packbits(bits, bitorder="little")


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=1.3),
        SamplingParams(temperature=1.0, top_p=0.9),
        SamplingParams(temperature=1.0, top_k=3, min_p=0.01),
        SamplingParams(temperature=1.0, typical_p=0.9, repetition_penalty=1.2),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 50, 6000])
def test_only_what_is_allowed_is_drawn_and_as_if_nothing_else_were_there(
    params: SamplingParams, count: int
) -> None:
    """Against the same settings over a row where all others are at minus infinity."""
    row = row_of("mixed", 8)
    ids = torch.randperm(D_VOCAB, generator=torch.Generator().manual_seed(count))[:count]
    alone = torch.full_like(row, -1e30)
    alone[ids] = row[ids]
    chosen = ids.tolist()
    allowed = replace(params, allowed_ids=tuple(chosen[:4096]))
    for draw in range(30):
        by_mask = want(params, draw=draw, mask=mask_of(chosen))
        token_id = sampler.choose(leading(row), row.numpy(), by_mask)
        assert token_id in chosen
        plain = want(params, draw=draw)
        if params.temperature == 0.0 or params.top_p < 1.0 or params.top_k:
            assert token_id == sampler.choose(leading(alone), alone.numpy(), plain)
        if count <= 4096:
            by_list = want(allowed, draw=draw)
            assert token_id == sampler.choose(leading(row), row.numpy(), by_list)


def test_lists_and_masks_are_kept_together() -> None:
    row = row_of("mixed", 2)
    params = SamplingParams(temperature=2.0, allowed_ids=(5, 6, 7, 8))
    drawn = {
        sampler.choose(
            leading(row),
            row.numpy(),
            want(params, draw=draw, banned_ids=(8,), mask=mask_of([1, 6, 7, 8])),
        )
        for draw in range(60)
    }
    assert drawn == {6, 7}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_nothing_may_be_drawn(temperature: float) -> None:
    row = torch.tensor([1.0, 2.0, 3.0])
    params = SamplingParams(temperature=temperature, top_k=1)
    assert sampler.choose(leading(row), None, want(params, banned_ids=(0, 1, 2))) == -1
    none = want(params, mask=mask_of([], 3))
    assert sampler.choose(leading(row), row.numpy(), none) == sampler.NO_TOKEN


@pytest.mark.parametrize("typical_p", [0.2, 0.9, 0.99])
def test_typical_tokens_of_a_wide_row_equal_transformers(typical_p: float) -> None:
    row = row_of("mixed", 3)
    params = SamplingParams(temperature=0.8, typical_p=typical_p)
    values, ids, log_total = leading(row)
    _, kept = sampler.candidates(Ranking(values, ids, row.numpy, log_total), params)
    warp: Any = hf.TypicalLogitsWarper(typical_p)
    scores = warp(torch.tensor([[0]]), row[None] / 0.8)
    expected = set(torch.isfinite(scores[0]).nonzero().flatten().tolist())
    assert kept is not None
    assert len(expected ^ set(kept.tolist())) <= 1 + len(expected) // 1000
