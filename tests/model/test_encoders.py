"""Encoders against transformers: packed together here, one sequence at a time there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headstream.model.errors import UnsupportedModelError
from headstream.model.kernels import Kernels
from headstream.model.loading.load import load_model
from model_reference import PLAIN_KERNELS, run_packed

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,  # heads of 32, as MiniLM has
    "max_position_embeddings": 48,
    "pad_token_id": 0,
}
DISTIL = {
    "vocab_size": 97,
    "dim": 64,
    "hidden_dim": 48,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
}
MODERN = SIZES | {
    "local_attention": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", SIZES),
    "bert-tanh": ("bert", SIZES | {"hidden_act": "gelu_new", "type_vocab_size": 1}),
    "roberta": ("roberta", SIZES | {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": ("xlm-roberta", SIZES | {"pad_token_id": 1, "layer_norm_eps": 1e-5}),
    "distilbert": ("distilbert", DISTIL),
    "modernbert": ("modernbert", MODERN),
    "modernbert-biases": (
        "modernbert",
        MODERN
        | {"attention_bias": True, "mlp_bias": True, "norm_bias": True}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
}
LENGTHS = (9, 1, 40, 2, 13)


def sequences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, 97, (n,), generator=generator).tolist() for n in LENGTHS]


def oracle_run(oracle: Any, ids: list[int]) -> tuple[list[Tensor], Tensor]:
    """The residual stream 0..L, and the final rows."""
    inner = getattr(oracle, oracle.base_model_prefix, oracle)
    before: list[Tensor] = []
    norm = getattr(inner, "final_norm", torch.nn.Identity())
    hook = norm.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    with torch.inference_mode():
        out = inner(torch.tensor([ids]), output_hidden_states=True)
    hook.remove()
    final = out.last_hidden_state[0]
    last = before[0][0] if before else final
    return [*(hidden[0] for hidden in out.hidden_states[:-1]), last], final


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForMaskedLM"])
@pytest.mark.parametrize("case", CASES)
def test_packed_run_equals_transformers_alone(
    case: str, auto: str, make_checkpoint: Any, kernels: Kernels
) -> None:
    """Whatever the checkpoint keeps for other ends is left aside."""
    directory, oracle = make_checkpoint(CASES[case][0], auto, **CASES[case][1])
    model = load_model(directory, torch.float32, kernels)
    assert not model.config.causal
    assert model.unembed is None
    for ids, run in zip(sequences(), run_packed(model, sequences()), strict=True):
        resid, final = oracle_run(oracle, ids)
        assert len(run.resid) == len(resid) == model.config.n_layers + 1
        for layer, (ours, theirs) in enumerate(zip(run.resid, resid, strict=True)):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, msg=f"layer {layer}")
        torch.testing.assert_close(run.final, final, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["bert", "distilbert", "modernbert"])
def test_bfloat16_is_no_further_from_the_truth_than_transformers(
    case: str, make_checkpoint: Any, kernels: Kernels
) -> None:
    directory, oracle = make_checkpoint(CASES[case][0], "AutoModel", **CASES[case][1])
    ids = sequences()[2]
    [run] = run_packed(load_model(directory, torch.bfloat16, kernels), [ids])
    _, theirs = oracle_run(oracle.to(torch.bfloat16), ids)
    _, truth = oracle_run(oracle.double(), ids)  # of the rounded weights
    assert run.final.dtype == torch.bfloat16
    assert (run.final - truth).norm() < 1.2 * (theirs - truth).norm()


def test_rows_see_what_is_behind_them(make_checkpoint: Any) -> None:
    directory, _ = make_checkpoint("bert", "AutoModel", **SIZES)
    model = load_model(directory, torch.float32, PLAIN_KERNELS)
    one, other = run_packed(model, [[5, 6, 7, 8], [5, 6, 7, 9]])
    assert torch.equal(one.resid[0][0], other.resid[0][0])
    assert not torch.allclose(one.final[0], other.final[0], atol=1e-3)


def test_static_embeddings_are_the_words_alone(make_checkpoint: Any) -> None:
    directory, oracle = make_checkpoint("bert", "AutoModel", **SIZES)
    model = load_model(directory, torch.float32, PLAIN_KERNELS)
    words = oracle.embeddings.word_embeddings.weight
    assert torch.equal(model.static_embeddings(torch.tensor([3, 8])), words[[3, 8]])


@pytest.mark.parametrize(
    ("model_type", "changes", "key"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"hidden_act": "relu"}, "hidden_act"),
        ("modernbert", {"hidden_activation": "relu"}, "hidden_activation"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    model_type: str, changes: dict[str, Any], key: str, make_checkpoint: Any
) -> None:
    sizes = MODERN if model_type == "modernbert" else SIZES
    directory, _ = make_checkpoint(model_type, "AutoModel", **sizes, **changes)
    with pytest.raises(UnsupportedModelError, match=key):
        load_model(directory, torch.float32, PLAIN_KERNELS)
