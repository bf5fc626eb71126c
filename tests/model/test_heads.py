"""From residual rows to what a client gets, over a tiny unembedding with random weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from headstream.model.batch import LEADING, RowRequest, RowResult
from headstream.model.families.base import Model
from headstream.model.heads import finish_rows
from headstream.model.kernels import Kernels
from headstream.model.layers.unembedding import Unembedding
from headstream.model.outputs import LogitsSpec, SamplingParams

D_MODEL = 32
ROWS = 6


class Tiny:
    """Only the end of a model."""

    def __init__(self, kernels: Kernels, weight: Tensor, softcap: float | None = None) -> None:
        self.kernels = kernels
        self.weight = weight
        self.unembed = Unembedding(weight, softcap, kernels, len(weight))
        self.softcap = softcap

    def final_norm(self, resid: Tensor) -> Tensor:
        return resid * 0.5

    def exact(self, resid: Tensor) -> Tensor:
        logits = self.final_norm(resid).double() @ self.weight.double().T
        return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap


@dataclass(frozen=True)
class Case:
    model: Tiny
    resid: Tensor  # [R, d]

    def finish(self, *requests: RowRequest) -> list[RowResult]:
        return finish_rows(cast(Model, self.model), self.resid[: len(requests)], requests)

    def one(self, **wants: Any) -> RowResult:
        return self.finish(want(**wants))[0]

    def rows(self) -> Tensor:
        """All logits [R, V], as the model makes them."""
        return self.model.unembed(self.model.final_norm(self.resid))

    def with_weights(self, ids: list[int], value: Tensor | float) -> Case:
        """The same with other rows of U."""
        weight = self.model.weight.clone()
        weight[ids] = torch.as_tensor(value, dtype=weight.dtype)
        return Case(Tiny(self.model.kernels, weight, self.model.softcap), self.resid)


def want(spec: LogitsSpec | None = None, *, logprob: bool = False, **sampling: Any) -> RowRequest:
    return RowRequest(SamplingParams(**sampling), spec or LogitsSpec(), logprob, 0, [1, 2], [3])


def make_case(
    kernels: Kernels,
    dtype: torch.dtype,
    *,
    d_vocab: int = 700,
    softcap: float | None = None,
    spread: float = 1.0,
) -> Case:
    generator = torch.Generator().manual_seed(d_vocab)
    weight = (torch.randn(d_vocab, D_MODEL, generator=generator) * spread).to(dtype)
    resid = (torch.randn(ROWS, D_MODEL, generator=generator) * 2).to(dtype)
    return Case(Tiny(kernels, weight, softcap), resid)


@pytest.fixture(params=[None, 10.0], ids=["", "softcap"])
def case(request: pytest.FixtureRequest, kernels: Kernels, dtype: torch.dtype) -> Case:
    return make_case(kernels, dtype, softcap=request.param)


FULL = LogitsSpec("full")


# --- The row ---


def test_full_row_is_the_exact_product(case: Case) -> None:
    for result, exact in zip(
        case.finish(*[want(FULL)] * ROWS), case.model.exact(case.resid), strict=True
    ):
        assert result.values is not None
        assert result.values.dtype == torch.float32
        assert result.values.shape == exact.shape
        assert result.value_ids == ()
        # Of bfloat16 weights too: sums are float32 and stay so.
        torch.testing.assert_close(result.values.double(), exact, atol=1e-4, rtol=1e-5)


def test_the_choice_of_bfloat16_is_the_exact_one(kernels: Kernels) -> None:
    """Where rounding alone would take another token."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4000, D_MODEL, generator=generator).bfloat16()
    resid = torch.randn(300, D_MODEL, generator=generator).bfloat16()
    model = Tiny(kernels, weight)
    results = finish_rows(cast(Model, model), resid, (want(),) * 300)
    exact = model.exact(resid).argmax(1).tolist()
    assert [result.token_id for result in results] == exact
    assert model.unembed(model.final_norm(resid)).bfloat16().argmax(1).tolist() != exact


def test_rows_do_not_depend_on_their_neighbours(case: Case) -> None:
    together = case.finish(*[want(FULL, logprob=True)] * ROWS)
    for r in range(ROWS):
        [alone] = Case(case.model, case.resid[r : r + 1]).finish(want(FULL, logprob=True))
        values, expected = alone.values, together[r].values
        assert values is not None
        assert expected is not None
        assert torch.equal(values, expected)
        assert (alone.token_id, alone.logprob) == (together[r].token_id, together[r].logprob)


# --- What a request may want ---


def test_nothing_but_a_token(case: Case) -> None:
    result = case.one()
    assert (result.logprob, result.values, result.value_ids) == (None, None, ())
    assert isinstance(result.token_id, int)


@pytest.mark.parametrize("logprobs", [False, True])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9}, {"logit_bias": {5: 100.0}}])
@pytest.mark.parametrize("top_k", [1, 2, LEADING, LEADING + 1, 300])
def test_top(top_k: int, sampling: dict[str, Any], logprobs: bool, case: Case) -> None:
    """Also beyond the leading ones, and the same whatever else the request wants."""
    requests = (
        want(LogitsSpec("top", top_k=top_k, logprobs=logprobs), **sampling),
        want(LogitsSpec("full", logprobs=logprobs)),
    )
    both = Case(case.model, case.resid[:1].expand(2, -1))
    top, full = both.finish(*requests)
    assert top.values is not None
    assert full.values is not None
    ids = torch.tensor(top.value_ids)
    assert len(ids.unique()) == top_k
    assert torch.equal(top.values, full.values[ids])
    assert torch.equal(top.values, full.values.sort(descending=True).values[:top_k])
    if not sampling:
        assert top.value_ids[0] == top.token_id


def test_top_of_a_small_vocabulary(kernels: Kernels, dtype: torch.dtype) -> None:
    """The server refuses it; the model gives what there is."""
    for top_k in (13, 20, 100):
        for temperature in (0.0, 1.0):
            case = make_case(kernels, dtype, d_vocab=13)
            result = case.one(spec=LogitsSpec("top", top_k=top_k), temperature=temperature)
            assert sorted(result.value_ids) == list(range(13))


def test_chosen_in_the_order_asked_for(case: Case) -> None:
    ids = (699, 0, 42, 42)
    twice = Case(case.model, case.resid[:1].expand(2, -1))
    chosen, full = twice.finish(want(LogitsSpec("chosen", token_ids=ids)), want(FULL))
    assert chosen.values is not None
    assert full.values is not None
    assert chosen.value_ids == ()
    assert torch.equal(chosen.values, full.values[list(ids)])


def test_logprobs_are_a_distribution(case: Case) -> None:
    raw, normed = (
        Case(case.model, case.resid[:1]).one(spec=LogitsSpec("full", logprobs=logprobs))
        for logprobs in (False, True)
    )
    assert raw.values is not None
    assert normed.values is not None
    torch.testing.assert_close(
        normed.values.double(), raw.values.double().log_softmax(0), atol=2e-5, rtol=0
    )
    assert float(normed.values.double().exp().sum()) == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("wire", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("mode", ["full", "top", "chosen"])
def test_wire_dtypes(mode: Any, wire: Any, case: Case) -> None:
    def values(dtype: Any) -> Tensor:
        spec = LogitsSpec(mode, top_k=9, token_ids=(4, 5), dtype=dtype)
        result = case.one(spec=spec).values
        assert result is not None
        assert len(result) == spec.row_values(700)
        return result

    expected = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    assert values(wire).dtype == expected[wire]
    assert values(wire).is_contiguous()
    assert torch.equal(values(wire), values("float32").to(expected[wire]))


# --- Agreement ---


@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 0.7}, {"logit_bias": {11: 50.0}}, {"repetition_penalty": 1.5}],
)
@pytest.mark.parametrize("mode", ["none", "top", "full"])
def test_logprob_is_that_of_the_token_in_the_raw_row(
    mode: Any, sampling: dict[str, Any], case: Case
) -> None:
    """Penalties and bias choose the token; the numbers are the model's own."""
    requests = [want(LogitsSpec(mode, top_k=5), logprob=True, **sampling)] * ROWS
    for result, full in zip(case.finish(*requests), case.finish(*[want(FULL)] * ROWS), strict=True):
        assert full.values is not None
        assert result.logprob is not None
        expected = float(full.values.double().log_softmax(0)[result.token_id])
        assert result.logprob == pytest.approx(expected, abs=2e-5)
        assert result.logprob <= 0.0
        if "logit_bias" in sampling:
            assert result.token_id == 11


def test_greedy_is_the_largest_of_the_row_whatever_is_asked_beside(case: Case) -> None:
    specs = [
        LogitsSpec(),
        FULL,
        LogitsSpec("top", top_k=3),
        LogitsSpec("top", top_k=200),
        LogitsSpec("chosen", token_ids=(1,)),
    ]
    rows = case.rows()
    for spec in specs:
        for logprob in (False, True):
            for r, result in enumerate(case.finish(*[want(spec, logprob=logprob)] * ROWS)):
                assert result.token_id == int(rows[r].argmax())


@pytest.mark.parametrize("spec", [LogitsSpec(), FULL, LogitsSpec("top", top_k=4)])
def test_exact_ties_go_to_the_lowest_id(
    spec: LogitsSpec, kernels: Kernels, dtype: torch.dtype
) -> None:
    case = make_case(kernels, dtype)
    top = int(case.model.exact(case.resid)[0].argmax())
    case = case.with_weights([690, 2, 300], case.model.weight[top])
    tied = sorted({690, 2, 300, top})
    result = case.one(spec=spec, logprob=True)
    assert result.token_id == 2
    if spec.mode == "top":
        assert list(result.value_ids) == tied
    cold = case.one(spec=spec, temperature=1e-9)
    assert cold.token_id in tied
    assert cold.value_ids == result.value_ids  # also where the token is drawn


def test_all_logits_equal(kernels: Kernels, dtype: torch.dtype) -> None:
    case = make_case(kernels, dtype, spread=0.0)
    result = case.one(spec=LogitsSpec("top", top_k=3), logprob=True)
    assert result.token_id == 0
    assert result.value_ids == (0, 1, 2)
    assert result.logprob == pytest.approx(-math.log(700), abs=1e-5)


# --- Broken weights ---


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "min_p": 0.1}])
@pytest.mark.parametrize("spec", [LogitsSpec(), FULL, LogitsSpec("top", top_k=100)])
def test_rows_that_are_no_numbers(spec: LogitsSpec, sampling: dict[str, Any], case: Case) -> None:
    """One row of NaN gives some token of the vocabulary, a NaN logprob, and harms nobody else."""
    requests = [want(spec, logprob=True, **sampling)] * ROWS
    before = case.finish(*requests)
    case.resid[0] = math.nan
    after = case.finish(*requests)
    assert 0 <= after[0].token_id < 700
    assert after[0].logprob is not None
    assert math.isnan(after[0].logprob)
    for old, new in zip(before[1:], after[1:], strict=True):
        assert (old.token_id, old.logprob) == (new.token_id, new.logprob)


def test_a_single_bad_weight(case: Case) -> None:
    case = case.with_weights([77], math.nan)
    for result in case.finish(*[want(FULL, logprob=True)] * ROWS):
        assert 0 <= result.token_id < 700
        assert result.logprob is not None
        assert math.isnan(result.logprob)
