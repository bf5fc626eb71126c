"""Rows of logits compared: by hand, by torch, and of real engines in 16 bits."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from bench.contenders.registry import CONTENDERS, REFERENCE
from bench.data import cut_prompts, text_ids
from bench.logits import COMPARED_PROMPTS, compare, compare_all, is_near
from bench.tiny import save_tiny_model
from bench.worker import Worker


def test_two_tokens_by_hand() -> None:
    """(1/2, 1/2) against (3/4, 1/4): 1/2 ln(2/3) + 1/2 ln 2; the second row is the same."""
    right = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    found = np.log(np.array([[0.75, 0.25], [0.9, 0.1]], np.float32))
    compared = compare(found, right)
    assert compared["positions"] == 2
    assert compared["apart"] == pytest.approx(np.log(2), rel=1e-6)
    assert compared["divergence"] == pytest.approx((np.log(2 / 3) + np.log(2)) / 4, rel=1e-6)
    assert compared["same_first"] == 1.0


def test_divergence_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(3)
    right = 10 * torch.randn(5, 100, generator=generator)  # [n, V]
    found = right + torch.randn(5, 100, generator=generator)
    compared = compare(found.numpy(), right.numpy())
    logarithms = [rows.double().log_softmax(dim=1) for rows in (found, right)]
    expected = functional.kl_div(
        logarithms[0], logarithms[1], reduction="batchmean", log_target=True
    )
    assert compared["divergence"] == pytest.approx(expected.item(), rel=1e-9)
    assert compared["apart"] == (found - right).abs().max().item()
    same = (found.argmax(dim=1) == right.argmax(dim=1)).double().mean()
    assert compared["same_first"] == same.item()


def test_a_number_that_is_none_is_told() -> None:
    right = np.zeros((3, 4), np.float32)
    found = right.copy()
    found[1, 2] = np.nan
    assert np.isnan(compare(found, right)["apart"])


def test_rows_are_counted() -> None:
    right = np.zeros((3, 4), np.float32)
    with pytest.raises(RuntimeError, match=r"\(1, 4\) came back, \(3, 4\) expected"):
        compare(right[:1], right)


def test_16_bits_are_compared_with_float32(tmp_path: Path, cache_dir: Path) -> None:
    """Ours and plain transformers beside a third engine in float32; and in its place, as a control:
    who computes in 16 bits is too far off where float32 is required."""
    model = save_tiny_model(tmp_path / "tiny", max_model_len=128)
    settings = {"directory": str(model), "threads": 1, "cache_dir": str(cache_dir)}

    def start(name: str, dtype: str) -> Worker:
        return Worker(CONTENDERS[name].target, settings | {"dtype": dtype}, 1)

    names = ("headstream", REFERENCE)
    prompts = cut_prompts(text_ids(model), count=8, length=16, bos_id=2)
    with ExitStack() as stack:
        workers = {name: stack.enter_context(start(name, "bfloat16")) for name in names}
        compared = compare_all(workers, prompts, "bfloat16", lambda: start(REFERENCE, "float32"))
        workers[REFERENCE] = stack.enter_context(start(REFERENCE, "float32"))
        [wrong] = compare_all(workers, prompts, "float32", lambda: workers["none is started"])
    assert [each["of"] for each in compared] == list(names)
    for each in compared:
        assert each["against"] == "transformers in float32"
        assert each["positions"] == COMPARED_PROMPTS * 15
        assert each["apart"] > 1e-3  # so much does bfloat16 lose, of anyone
        assert 0 < each["divergence"] < 0.1
        assert is_near(each)  # nothing is required
    assert (wrong["of"], wrong["against"]) == names
    assert not is_near(wrong)


def test_without_the_reference_nothing_is_compared() -> None:
    workers: Any = {"headstream": None}
    assert compare_all(workers, [[1, 2]], "float32", lambda: workers["none is started"]) == []
