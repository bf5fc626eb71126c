"""Every family against transformers: packed together here, one sequence at a time there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headstream.model.families.base import Model
from headstream.model.kernels import Kernels
from headstream.model.kernels.int8 import Int8Weight
from headstream.model.loading.load import load_model
from headstream.model.probe import Probe
from model_reference import PLAIN_KERNELS, run_packed

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
GPT2 = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt2-scales": (
        "gpt2",
        GPT2 | {"scale_attn_by_inverse_layer_idx": True, "activation_function": "gelu"},
    ),
    "llama": ("llama", SIZES),
    "llama-tied-mha": ("llama", SIZES | {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-biases": ("llama", SIZES | {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("llama", SIZES | {"rope_parameters": LLAMA3}),
    "llama-linear": (
        "llama",
        SIZES | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "llama-yarn": ("llama", SIZES | {"rope_parameters": YARN}),
    "mistral-window": ("mistral", SIZES | {"sliding_window": 5, "head_dim": 16}),
    "qwen2-tied": ("qwen2", SIZES | {"tie_word_embeddings": True}),
    "qwen2-window": (
        "qwen2",
        SIZES | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", SIZES | {"head_dim": 24}),
    "gemma3": (
        "gemma3_text",
        SIZES
        | {
            "head_dim": 16,
            "query_pre_attn_scalar": 11,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "final_logit_softcapping": 3.0,
        },
    ),
}
LENGTHS = (9, 1, 20, 2, 13)


def _sequences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, 97, (n,), generator=generator).tolist() for n in LENGTHS]


def _oracle_run(oracle: Any, ids: list[int]) -> tuple[Tensor, list[Tensor], Tensor]:
    """Logits, the residual stream 0..L and the final rows; HF's last entry is already normed."""
    inner = oracle.transformer if hasattr(oracle, "transformer") else oracle.model
    norm = inner.ln_f if hasattr(inner, "ln_f") else inner.norm
    before: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    with torch.inference_mode():
        out = oracle(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    hook.remove()
    resid = [*(h[0] for h in out.hidden_states[:-1]), before[0][0]]
    return out.logits[0], resid, out.hidden_states[-1][0]


@pytest.mark.parametrize("case", CASES)
def test_packed_run_equals_transformers_alone(
    case: str, make_checkpoint: Any, kernels: Kernels
) -> None:
    directory, oracle = make_checkpoint(CASES[case][0], **CASES[case][1])
    model = load_model(directory, torch.float32, kernels)
    sequences = _sequences()
    for ids, run in zip(sequences, run_packed(model, sequences), strict=True):
        logits, resid, final = _oracle_run(oracle, ids)
        assert len(run.resid) == len(resid) == model.config.n_layers + 1
        for layer, (ours, theirs) in enumerate(zip(run.resid, resid, strict=True)):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, msg=f"layer {layer}")
        torch.testing.assert_close(run.final, final, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(run.logits, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["gpt2", "llama", "qwen3", "gemma3"])
def test_bfloat16_is_no_further_from_the_truth_than_transformers(
    case: str, make_checkpoint: Any, kernels: Kernels
) -> None:
    directory, oracle = make_checkpoint(CASES[case][0], **CASES[case][1])
    model = load_model(directory, torch.bfloat16, kernels)
    ids = _sequences()[2]
    [run] = run_packed(model, [ids])
    theirs, resid, _ = _oracle_run(oracle.to(torch.bfloat16), ids)
    truth, _, _ = _oracle_run(oracle.double(), ids)  # of the rounded weights
    assert run.logits.dtype == torch.float32
    assert torch.equal(run.resid[0], resid[0])
    assert (run.logits - truth).norm() < 1.2 * (theirs - truth).norm()


@pytest.mark.parametrize(
    "case", ["gpt2", "llama", "mistral-window", "qwen2-tied", "qwen2-window", "qwen3", "gemma3"]
)
def test_a_checkpoint_without_an_unembedding_gives_rows(case: str, make_checkpoint: Any) -> None:
    """As embedders are published: the layers alone, under the name of the layers alone."""
    directory, oracle = make_checkpoint(CASES[case][0], "AutoModel", **CASES[case][1])
    model = load_model(directory, torch.float32, PLAIN_KERNELS)
    assert model.unembed is None
    assert model.config.causal
    for ids, run in zip(_sequences(), run_packed(model, _sequences()), strict=True):
        with torch.inference_mode():
            final = oracle(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(run.final, final, atol=1e-5, rtol=1e-5)


def _round_to_int8(oracle: Any, dtype: torch.dtype) -> Any:
    """Every linear gets the weights that Headstream computes with; rows of E stay as they are."""
    for module in oracle.modules():
        transposed = type(module).__name__ == "Conv1D"
        if transposed or isinstance(module, torch.nn.Linear):
            weight = module.weight.T if transposed else module.weight
            rounded = Int8Weight.quantize(weight.detach().to(dtype)).dequantize()
            module.weight = torch.nn.Parameter(rounded.T if transposed else rounded)
    return oracle


@pytest.mark.parametrize("case", CASES)
def test_int8_equals_transformers_on_the_rounded_weights(
    case: str, make_checkpoint: Any, int8_kernels: Kernels
) -> None:
    directory, oracle = make_checkpoint(CASES[case][0], **CASES[case][1])
    model = load_model(directory, torch.float32, int8_kernels)
    sequences = _sequences()
    unrounded, _, _ = _oracle_run(oracle, sequences[2])
    oracle = _round_to_int8(oracle, torch.float32).double()
    runs = run_packed(model, sequences)
    for ids, run in zip(sequences, runs, strict=True):
        logits, _, final = _oracle_run(oracle, ids)
        torch.testing.assert_close(run.final.double(), final, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(run.logits.double(), logits, atol=1e-5, rtol=1e-5)
    assert (runs[2].logits - unrounded).abs().max() > 1e-3  # it is another model


@pytest.mark.parametrize("case", ["gpt2", "qwen3", "gemma3"])
def test_int8_in_bfloat16_is_as_near_as_bfloat16_is(
    case: str, make_checkpoint: Any, int8_kernels: Kernels
) -> None:
    directory, oracle = make_checkpoint(CASES[case][0], **CASES[case][1])
    [run] = run_packed(load_model(directory, torch.bfloat16, int8_kernels), [_sequences()[2]])
    oracle = _round_to_int8(oracle.bfloat16(), torch.bfloat16)
    theirs, _, _ = _oracle_run(oracle.bfloat16(), _sequences()[2])  # rounded once more
    oracle = _round_to_int8(make_checkpoint(CASES[case][0], **CASES[case][1])[1], torch.bfloat16)
    truth, _, _ = _oracle_run(oracle.double(), _sequences()[2])
    assert (run.logits - truth).norm() < 1.2 * (theirs - truth).norm()


@pytest.fixture
def gemma3(make_checkpoint: Any) -> Model:
    directory, _ = make_checkpoint(CASES["gemma3"][0], **CASES["gemma3"][1])
    return load_model(directory, torch.bfloat16, PLAIN_KERNELS)


def test_logits_are_exact_sums_of_bfloat16_rows(gemma3: Model) -> None:
    rows = torch.randn(5, 32).bfloat16()
    unembedding = gemma3.static_embeddings(torch.arange(97)).double()
    unembedding /= torch.tensor(32**0.5).bfloat16().double()  # the scale of Gemma's embedding
    exact = torch.tanh(rows.double() @ unembedding.T / 3.0) * 3.0
    assert gemma3.unembed is not None
    logits = gemma3.unembed(rows)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), exact, atol=2e-2, rtol=0)


def test_static_embeddings_are_layer_zero(gemma3: Model) -> None:
    [run] = run_packed(gemma3, [[3, 5, 8]])
    assert torch.equal(gemma3.static_embeddings(torch.tensor([3, 5, 8])), run.resid[0])


@pytest.mark.parametrize("case", ["gpt2", "qwen3", "gemma3"])
def test_every_weight_lives_on_the_given_device(case: str, make_checkpoint: Any) -> None:
    directory, _ = make_checkpoint(CASES[case][0], **CASES[case][1])
    # "meta" refuses to mix with tensors of another device, as CUDA does, and is everywhere.
    meta = torch.device("meta")
    model = load_model(directory, torch.bfloat16, PLAIN_KERNELS, device=meta)
    ids = torch.zeros(5, dtype=torch.int64, device=meta)
    resid = model.forward(ids, ids, lambda layer, q, k, v: q, Probe({1: ids}))
    assert model.unembed is not None
    logits = model.unembed(model.final_norm(resid))
    assert (logits.device, logits.shape, logits.dtype) == (meta, (5, 97), torch.float32)
